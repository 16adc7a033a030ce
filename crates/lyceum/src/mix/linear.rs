//! A frozen linear layer that experts may adapt.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::gemm::{Packed, Rounding};

use super::{Gates, Pass};
use crate::error::{Context, Result};
use crate::name::Site;
use crate::ops;

/// The matrix of a linear layer.
#[derive(Clone)]
pub enum Weight {
    /// Prepared once; never trained.
    Frozen(Arc<Packed>),
    /// `[d_out, d_in]`, a variable under full training, and how products round it.
    Trained(Tensor, Rounding),
}

impl Weight {
    /// `x W^T + bias`: x `[t, d_in]`, result `[t, d_out]`.
    pub(crate) fn product(&self, x: &Tensor, bias: Option<&Vector>) -> Result<Tensor> {
        let own = match (self, bias) {
            (Weight::Frozen(w), Some(Vector::Frozen(b))) => {
                return Ok(ops::product(x, w, Some(b))?);
            }
            (Weight::Frozen(w), _) => ops::product(x, w, None)?,
            (Weight::Trained(w, rounding), _) => ops::trained_product(x, w, *rounding)?,
        };
        Ok(match bias {
            Some(bias) => own.broadcast_add(&bias.tensor()?)?,
            None => own,
        })
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Weight::Frozen(w) => write!(f, "Frozen[{}, {}]", w.n_out(), w.n_in()),
            Weight::Trained(w, _) => write!(f, "Trained{:?}", w.dims()),
        }
    }
}

/// A bias or a norm's parameter.
#[derive(Debug, Clone)]
pub(crate) enum Vector {
    Frozen(Arc<[f32]>),
    Trained(Tensor),
}

impl Vector {
    /// The values as a tensor `[d]`; the variable itself when trained.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        Ok(match self {
            Vector::Frozen(v) => Tensor::from_slice(v, v.len(), &candle_core::Device::Cpu)?,
            Vector::Trained(v) => v.clone(),
        })
    }
}

/// A linear layer: the base's own output plus what the pass's experts add to it.
#[derive(Debug, Clone)]
pub struct RoutedLinear {
    site: Site,
    weight: Weight,
    bias: Option<Vector>,
}

impl RoutedLinear {
    pub(crate) fn new(site: Site, weight: Weight, bias: Option<Vector>) -> Self {
        RoutedLinear { site, weight, bias }
    }

    /// Where this layer is.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// `W x + bias + delta`: x `[t, d_in]`, result `[t, d_out]`.
    ///
    /// # Errors
    /// When widths disagree or the router cannot decide.
    pub fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let own = self.weight.product(x, self.bias.as_ref())?;
        match pass
            .mixture
            .and_then(|m| Some((m, m.bank.site(&self.site)?)))
        {
            None => Ok(own),
            Some((mixture, bank)) => {
                let gates: Gates = mixture.router.gates(&self.site, x, pass)?;
                if let Some(probe) = pass.probe {
                    probe.see(&self.site, &gates, pass)?;
                }
                let delta = bank.delta(x, &gates, mixture.mixing);
                Ok(own.add(&delta.context(|| format!("at {}", self.site))?)?)
            }
        }
    }
}
