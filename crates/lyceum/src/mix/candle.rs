//! The mixing rule in candle's operations, for devices whose memory the kernels cannot read.

use candle_core::{Device, Tensor};
use lyceum_kernels::lora::Slab;

use super::linear::{Experts, experts};
use super::{Gates, Mixing, Pass, SiteBank};
use crate::error::{Context, Error, Result};
use crate::name::Site;
use crate::ops::candle as ops;

/// A linear layer on a device: the base's own output plus what the pass's experts add to it.
#[derive(Debug, Clone)]
pub(crate) struct DeviceLinear {
    site: Site,
    /// `[d_out, d_in]`
    weight: Tensor,
    bias: Option<Tensor>,
}

impl DeviceLinear {
    pub(crate) fn new(site: Site, weight: Tensor, bias: Option<Tensor>) -> Self {
        DeviceLinear { site, weight, bias }
    }

    /// `W x + bias + delta`, differentiable: x `[t, d_in]`, result `[t, d_out]`.
    ///
    /// # Errors
    /// When widths disagree, the router cannot decide or the device fails.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let mut y = ops::product(x, &self.weight)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        let (t, mut next, mut parts) = (x.dims2()?.0, 0, Vec::new());
        for Experts { route, bank, rows } in experts(&self.site, pass) {
            if rows.is_empty() {
                continue;
            }
            let own = |x: &Tensor| x.narrow(0, rows.start, rows.len());
            let mixing = route.mixture.mixing;
            let router = &route.mixture.router;
            let x = own(x)?;
            let (gates, trained) = pass.limited(route, |pass| {
                let (gates, trained) = router.gates_on(&self.site, &x, pass)?;
                if let Some(probe) = pass.probe {
                    probe.see(&self.site, &gates, pass)?;
                }
                Ok::<_, Error>((gates, trained))
            })?;
            let d_out = self.weight.dim(0)?;
            let delta = bank.composed((&x, d_out), (&gates, trained.as_ref()), mixing);
            let delta = delta.context(|| format!("at {}", self.site))?;
            if next < rows.start {
                parts.push(y.narrow(0, next, rows.start - next)?);
            }
            parts.push((own(&y)? + delta)?);
            next = rows.end;
        }
        match parts.as_slice() {
            [] => return Ok(y),
            [one] if next == t && one.dims2()?.0 == t => return Ok(one.clone()),
            _ => {}
        }
        if next < t {
            parts.push(y.narrow(0, next, t - next)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl SiteBank {
    /// The experts' update `[t, d_out]` for `x` `[t, d_in]` on any device; `trained` are the
    /// weights of `gates` as a tensor `[t, k]`, if they can be trained.
    fn composed(
        &self,
        (x, d_out): (&Tensor, usize),
        (gates, trained): (&Gates, Option<&Tensor>),
        mixing: Mixing,
    ) -> Result<Tensor> {
        self.check((x.elem_count(), d_out), gates, mixing)?;
        let device = x.device();
        let (slabs, ranks) = (self.table.slabs(), self.table.ranks());
        let experts = slabs.len();
        let (down, up) = self.factors(device)?;
        let h = x.matmul(&down.t()?)?; // [t, R]
        let shares = dense(gates, trained, experts, device)?; // [t or 1, E]
        match mixing {
            Mixing::Outputs => {
                // The scale of each expert at its own ranks: [E, R].
                let (mut expand, mut from) = (vec![0.0; experts * ranks], 0);
                for (row, slab) in expand.chunks_mut(ranks.max(1)).zip(slabs) {
                    row[from..from + slab.rank()].fill(slab.scale());
                    from += slab.rank();
                }
                let expand = Tensor::from_vec(expand, (experts, ranks), device)?;
                Ok(h.broadcast_mul(&shares.matmul(&expand)?)?.matmul(&up)?)
            }
            Mixing::Factors => {
                let t = h.dims2()?.0;
                let shares = shares.unsqueeze(2)?; // [t or 1, E, 1]
                let h = h.reshape((t, experts, ranks / experts.max(1)))?;
                let mean = h.broadcast_mul(&shares)?.sum_keepdim(1)?; // [t, 1, r]
                let both = mean.broadcast_mul(&shares)?.reshape((t, ranks))?;
                let scale = slabs.first().map_or(0.0, Slab::scale);
                Ok((both.matmul(&up)? * f64::from(scale))?)
            }
        }
    }

    /// `down` `[R, d_in]` and `up` `[R, d_out]` on `device`, differentiable where they are trained.
    fn factors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let ((d_in, d_out), ranks) = (self.widths(), self.table.ranks());
        if let Some(params) = self.params() {
            let params = params.to_device(device)?;
            let down = params.narrow(0, 0, ranks * d_in)?;
            let up = params.narrow(0, ranks * d_in, ranks * d_out)?;
            return Ok((down.reshape((ranks, d_in))?, up.reshape((ranks, d_out))?));
        }
        self.placed.on(device, || {
            let all = |side: &dyn Fn(usize) -> Vec<f32>, d: usize| {
                let rows = (0..self.table.slabs().len()).flat_map(side).collect();
                Tensor::from_vec(rows, (ranks, d), device)
            };
            let down = all(&|e| self.table.down(e).to_vec(), d_in)?;
            let up = all(&|e| self.table.up(e).to_vec(), d_out)?;
            Ok((down, up))
        })
    }
}

/// The weight of every expert, `[t, experts]`, or `[1, experts]` when all tokens choose alike.
fn dense(
    gates: &Gates,
    trained: Option<&Tensor>,
    experts: usize,
    device: &Device,
) -> Result<Tensor> {
    let k = gates.k();
    let rows = gates.indices().len().checked_div(k).unwrap_or(1);
    let Some(weights) = trained else {
        let all = gates.rows(rows, experts).concat();
        return Ok(Tensor::from_vec(all, (rows, experts), device)?);
    };
    let mut sum: Option<Tensor> = None;
    for i in 0..k {
        let mut chosen = vec![0f32; rows * experts];
        for row in 0..rows {
            chosen[row * experts + gates.indices()[row * k + i] as usize] = 1.0;
        }
        let chosen = Tensor::from_vec(chosen, (rows, experts), device)?;
        let part = chosen.broadcast_mul(&weights.narrow(1, i, 1)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::invalid("gates without a choice"))
}
