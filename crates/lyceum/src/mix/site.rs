//! The experts' factors at one site.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::lora::{Activations, Delta, Factors, Slab, SlabTable};

use super::device_factors::DeviceFactors;
use super::{Gates, Mixing};
use crate::error::{Error, Hint, Result};
use crate::lora::Lora;
use crate::ops::{self, candle::Placed};

/// One expert's factors at one site. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Adapter {
    slab: Slab,
    scale: f64,
    /// A, and B transposed, flat, if one of them can be trained.
    variables: Option<[Tensor; 2]>,
}

impl Adapter {
    /// # Errors
    /// When the factors are not f32.
    pub(super) fn new(lora: &Lora) -> Result<Self> {
        let a = lora.a.flatten_all()?;
        let b = lora.b.t()?.contiguous()?.flatten_all()?;
        let scale = lora.scale;
        let slab = Slab::new(
            &ops::values(&a)?,
            &ops::values(&b)?,
            lora.rank(),
            scale as f32,
        );
        let trained = lora.a.track_op() || lora.b.track_op();
        Ok(Adapter {
            slab,
            scale,
            variables: trained.then_some([a, b]),
        })
    }

    /// A and B transposed, flat.
    fn tensors(&self, d_in: usize) -> Result<[Tensor; 2]> {
        if let Some(variables) = &self.variables {
            return Ok(variables.clone());
        }
        let values = self.slab.values();
        let (a, b) = values.split_at(self.slab.rank() * d_in);
        let tensor = |x: &[f32]| Tensor::from_slice(x, x.len(), &candle_core::Device::Cpu);
        Ok([tensor(a)?, tensor(b)?])
    }
}

/// The factors of all experts at one site, a slab each.
#[derive(Debug, Clone)]
pub struct SiteBank {
    pub(super) table: SlabTable,
    /// By expert; `None` where it does not adapt this site.
    adapters: Vec<Option<Adapter>>,
    /// All A's, then all B's transposed, as one flat tensor, if one of them can be trained.
    params: Option<Tensor>,
    /// The factors on the device that asked for them first, if they are not trained.
    pub(super) placed: Placed<DeviceFactors>,
}

impl SiteBank {
    /// A bank of these adapters, one per expert, for a site from `d_in` to `d_out` values.
    pub(super) fn new(adapters: Vec<Option<Adapter>>, d_in: usize, d_out: usize) -> Result<Self> {
        let slab = |adapter: &Option<Adapter>| {
            adapter
                .as_ref()
                .map_or_else(Slab::empty, |own| own.slab.clone())
        };
        let here = adapters.iter().flatten();
        let mut params = None;
        if here.clone().any(|own| own.variables.is_some()) {
            let pairs = here.map(|own| own.tensors(d_in));
            let pairs = pairs.collect::<Result<Vec<_>>>()?;
            let sides = [0, 1].map(|side| pairs.iter().map(move |pair| &pair[side]));
            params = Some(Tensor::cat(
                &sides.into_iter().flatten().collect::<Vec<_>>(),
                0,
            )?);
        }
        Ok(SiteBank {
            table: SlabTable::new(adapters.iter().map(slab).collect(), d_in, d_out),
            adapters,
            params,
            placed: Placed::new(),
        })
    }

    /// The adapters, one per expert.
    pub(super) fn adapters(&self) -> &[Option<Adapter>] {
        &self.adapters
    }

    /// The widths of the site: in, out.
    pub fn widths(&self) -> (usize, usize) {
        self.table.widths()
    }

    /// The values of expert `e`, which banks share: A `[rank, d_in]`, then B transposed
    /// `[rank, d_out]`; `None` where it does not adapt this site.
    pub fn slab(&self, e: usize) -> Option<&Arc<[f32]>> {
        let own = self.adapters.get(e)?.as_ref()?;
        Some(own.slab.values())
    }

    /// All A's, then all B's transposed, if one of them can be trained: one flat tensor.
    pub(super) fn params(&self) -> Option<&Tensor> {
        self.params.as_ref()
    }

    /// The update of the experts that `gates` choose, for what [`SiteBank::check`] accepts.
    pub(super) fn delta<'a>(&'a self, gates: &'a Gates, mixing: Mixing) -> Delta<'a> {
        let factors = Factors {
            table: &self.table,
            mixing,
        };
        Delta::new(factors, gates.view())
    }

    /// Checks that `n` values of input, outputs of `d_out` values and `gates` fit these experts.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for [`Mixing::Factors`] over unequal ranks or scales, and for gates or
    /// widths that do not fit.
    pub(super) fn check(
        &self,
        n: usize,
        d_out: usize,
        gates: &Gates,
        mixing: Mixing,
    ) -> Result<()> {
        let t = self.check_widths(n, d_out, mixing)?;
        match gates.fit(t, self.adapters.len()) {
            true => Ok(()),
            false => Err(Error::Mismatch(format!(
                "gates that do not fit {t} tokens and {} experts",
                self.adapters.len()
            ))),
        }
    }

    /// Checks that `n` values of input and outputs of `d_out` values fit these experts, and returns
    /// the number of tokens.
    pub(super) fn check_widths(&self, n: usize, d_out: usize, mixing: Mixing) -> Result<usize> {
        if mixing == Mixing::Factors {
            self.check_even()?;
        }
        let (d_in, width) = self.widths();
        let t = n / d_in.max(1);
        match n == t * d_in && d_out == width {
            true => Ok(t),
            false => Err(Error::Mismatch(format!(
                "experts from {d_in} to {width} values over {n} values, to {d_out}"
            ))),
        }
    }

    /// The gradients of the factors as [`SiteBank::params`] has them, if they can be trained.
    pub(super) fn backward(
        &self,
        kept: &Activations<'_>,
        gates: &Gates,
        mixing: Mixing,
    ) -> Option<Vec<f32>> {
        self.params.as_ref()?;
        let (d_in, d_out) = self.widths();
        let ranks = self.table.ranks();
        let mut params = vec![0.0; ranks * (d_in + d_out)];
        let (down, up) = params.split_at_mut(ranks * d_in);
        self.delta(gates, mixing).factors_backward(kept, down, up);
        Some(params)
    }

    fn check_even(&self) -> Result<()> {
        let shape = |own: &Option<Adapter>| {
            let own = own.as_ref()?;
            Some((own.slab.rank(), own.scale))
        };
        let mut shapes = self.adapters.iter().map(shape);
        match shapes.next().flatten() {
            Some(first) if shapes.all(|own| own == Some(first)) => Ok(()),
            _ => Err(Error::Mismatch(
                "mixing `factors` averages A's and B's, so every expert must adapt the same sites \
                 with the same rank and scale; these do not"
                    .into(),
            )
            .hint(Hint::Set {
                option: "mixing",
                value: "outputs",
            })),
        }
    }
}
