//! The mixing rule in candle's operations, for devices whose memory the kernels cannot read.

use candle_core::{DType, Device, Tensor};
use lyceum_kernels::lora::Slab;

use super::device_factors::DeviceFactors;
use super::linear::{Experts, experts};
use super::{Decision, Input, Mixing, Pass, SiteBank};
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
            let decision = pass.limited(route, |pass| {
                let decision = router.gates(&self.site, Input::Device(&x), pass)?;
                if let Some(probe) = pass.probe {
                    probe.see(&self.site, &decision.clone().into_gates()?, pass)?;
                }
                Ok::<_, Error>(decision)
            })?;
            let delta = bank.delta_on(&x, self.weight.dim(0)?, &decision, mixing);
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
    /// The experts' update `[t, d_out]` for `x` `[t, d_in]` on any device. Only experts that are
    /// chosen are multiplied, as far as the processor knows them: gates decided on the device pick
    /// each token's own factors where these are fewer than all, else all tokens go through all.
    fn delta_on(
        &self,
        x: &Tensor,
        d_out: usize,
        decision: &Decision,
        mixing: Mixing,
    ) -> Result<Tensor> {
        let device = x.device();
        let experts = self.table.slabs().len();
        match decision {
            Decision::Host(gates) => {
                self.check(x.elem_count(), d_out, gates, mixing)?;
                let chosen = gates.distinct();
                if chosen.is_empty() {
                    return Ok(Tensor::zeros((x.dim(0)?, d_out), DType::F32, device)?);
                }
                let rows = gates.indices().len() / gates.k();
                let mut shares = vec![0.0; rows * chosen.len()];
                for (row, (expert, weight)) in gates.choices() {
                    let at = chosen.partition_point(|own| *own < expert);
                    shares[row * chosen.len() + at] += weight;
                }
                let shares = Tensor::from_vec(shares, (rows, chosen.len()), device)?;
                let mut factors = self.factors(device)?;
                if chosen.len() < experts {
                    factors = factors.select(&Tensor::new(chosen, device)?)?;
                }
                factors.shared(x, &shares, mixing)
            }
            Decision::Device(gates) => {
                let (t, k) = gates.indices().dims2()?;
                self.check_widths(x.elem_count(), d_out, mixing)?;
                if t != x.dim(0)? {
                    let text = format!("gates of {t} tokens for {} tokens", x.dim(0)?);
                    return Err(Error::Mismatch(text));
                }
                let factors = self.factors(device)?;
                if t * k < experts {
                    let own = factors.select(&gates.indices().flatten_all()?)?;
                    return own.own(x, gates.weights(), mixing);
                }
                let ids = Tensor::arange(0, experts as u32, device)?;
                let chosen = gates.indices().unsqueeze(2)?.broadcast_eq(&ids)?; // [t, k, e]
                let shares = chosen.to_dtype(DType::F32)?;
                let shares = shares
                    .broadcast_mul(&gates.weights().unsqueeze(2)?)?
                    .sum(1)?;
                factors.shared(x, &shares, mixing)
            }
        }
    }

    /// The factors of all experts on `device`, differentiable where they are trained.
    fn factors(&self, device: &Device) -> Result<DeviceFactors> {
        let slabs = self.table.slabs();
        let rank = slabs.iter().map(Slab::rank).max().unwrap_or(0);
        let (e, (d_in, d_out)) = (slabs.len(), self.widths());
        let Some(params) = self.params() else {
            return self.placed.on(device, || {
                let mut down = vec![0.0; e * rank * d_in];
                let mut up = vec![0.0; e * rank * d_out];
                for (i, slab) in slabs.iter().enumerate() {
                    let own = self.table.down(i);
                    down[i * rank * d_in..][..own.len()].copy_from_slice(own);
                    let own = self.table.up(i).iter().map(|x| x * slab.scale());
                    { up[i * rank * d_out..].iter_mut().zip(own) }.for_each(|(to, x)| *to = x);
                }
                Ok(DeviceFactors {
                    down: Tensor::from_vec(down, (e, rank, d_in), device)?,
                    up: Tensor::from_vec(up, (e, rank, d_out), device)?,
                })
            });
        };
        let (params, ranks) = (params.to_device(device)?, self.table.ranks());
        let mut from = 0;
        let rows = slabs.iter().flat_map(|slab| {
            let own = from..from + slab.rank();
            from = own.end;
            // The row after all others is zero.
            let row = move |i| if i < own.len() { own.start + i } else { ranks };
            (0..rank).map(row).map(|row| row as u32)
        });
        let rows: Vec<u32> = rows.collect();
        let padded = rows.len() > ranks;
        let rows = Tensor::new(rows, device)?;
        let side = |start: usize, d: usize| -> Result<Tensor> {
            let mut own = params.narrow(0, start, ranks * d)?.reshape((ranks, d))?;
            if padded {
                own = own.pad_with_zeros(0, 0, 1)?.index_select(&rows, 0)?;
            }
            Ok(own.reshape((e, rank, d))?)
        };
        let scales: Vec<f32> = slabs.iter().map(Slab::scale).collect();
        let scales = Tensor::from_vec(scales, (e, 1, 1), device)?;
        Ok(DeviceFactors {
            down: side(0, d_in)?,
            up: side(ranks * d_in, d_out)?.broadcast_mul(&scales)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::Var;

    use super::*;
    use crate::lora::Lora;
    use crate::mix::{Bank, DeviceGates, Gates};
    use crate::name::Name;
    use crate::rng::Rng;

    const SITE: &str = "h.0.q";

    fn tensor(rng: &mut Rng, shape: (usize, usize), trained: bool) -> Tensor {
        let values = rng.normal(shape.0 * shape.1, 1.0);
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        match trained {
            true => Var::from_tensor(&tensor).unwrap().as_tensor().clone(),
            false => tensor,
        }
    }

    fn bank(ranks: &[usize], trained: bool) -> Bank {
        let mut rng = Rng::new(5);
        let lora = |(i, rank): (usize, &usize)| {
            let a = tensor(&mut rng, (*rank, 6), trained);
            let b = tensor(&mut rng, (5, *rank), trained);
            let name = Name::new(&format!("e{i}")).unwrap();
            let lora = Lora::new(a, b, 0.5).unwrap();
            (name, BTreeMap::from([(Site::new(SITE), lora)]))
        };
        let experts: Vec<_> = ranks.iter().enumerate().map(lora).collect();
        Bank::new(experts.iter().map(|(name, loras)| (name.clone(), loras))).unwrap()
    }

    #[test]
    fn every_way_to_multiply_chosen_experts_equals_the_kernels() {
        let (t, k) = (4, 2);
        let mut rng = Rng::new(7);
        let x = tensor(&mut rng, (t, 6), false);
        let weights = tensor(&mut rng, (t, k), false);
        let indices = Tensor::new(&[[0u32, 3], [3, 1], [4, 0], [1, 3]], &Device::Cpu).unwrap();
        let device = |from: usize, n: usize| {
            let part = |x: &Tensor| x.narrow(0, from, n).unwrap();
            DeviceGates::new(part(&indices), part(&weights)).unwrap()
        };
        let gates = Decision::Device(device(0, t)).into_gates().unwrap();
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (ranks, mixing) in [
            ([1, 2, 4, 1, 3], Mixing::Outputs),
            ([2; 5], Mixing::Outputs),
            ([2; 5], Mixing::Factors),
        ] {
            for trained in [false, true] {
                let bank = bank(&ranks, trained);
                let site = bank.site(&Site::new(SITE)).unwrap();
                let update = site.delta(&gates, mixing);
                let mut want = vec![0.0; t * 5];
                update.expand(&update.shrink(&values(&x)), 0, &mut want);
                let delta = |x: &Tensor, decision: &Decision| {
                    let delta = site.delta_on(x, 5, decision, mixing).unwrap();
                    values(&delta)
                };
                let all = delta(&x, &Decision::Device(device(0, t)));
                let known = delta(&x, &gates.clone().into());
                // Fewer choices than experts: tokens pick their own.
                let own = (0..t).flat_map(|i| {
                    let x = x.narrow(0, i, 1).unwrap();
                    delta(&x, &Decision::Device(device(i, 1)))
                });
                for got in [all, known, own.collect()] {
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
                    assert!(got.iter().zip(&want).all(near), "{got:?} {want:?}");
                    assert_eq!(got.len(), want.len());
                }
            }
        }
        let shared = Gates::shared(&[0.0; 0]).into();
        let bank = bank(&[2; 5], false);
        let site = bank.site(&Site::new(SITE)).unwrap();
        let none = site.delta_on(&x, 5, &shared, Mixing::Outputs).unwrap();
        assert_eq!(values(&none), [0.0; 20]);
    }
}
