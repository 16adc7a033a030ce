//! A norm with its parameters.

use candle_core::Tensor;
use lyceum_kernels::norm;

use super::source::Source;
use crate::backbone::config::{self, NormKind};
use crate::error::Result;
use crate::mix::{Gradients, Vector};
use crate::ops::{self, Gradient};

/// Layer norm, or RMS norm without a bias.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) weight: Vector,
    pub(super) bias: Option<Vector>,
    pub(super) eps: f32,
    /// `true` if the weight is stored less one.
    pub(super) plus_one: bool,
}

impl Norm {
    pub(super) fn new(source: &Source<'_>, path: &str, is: config::Norm) -> Result<Self> {
        let mut weight = source.vector(&format!("{path}.weight"))?;
        let mut plus_one = is.plus_one;
        if let (true, Vector::Frozen(values)) = (plus_one, &weight) {
            weight = Vector::Frozen(values.iter().map(|w| 1.0 + w).collect());
            plus_one = false;
        }
        let bias = match is.kind {
            NormKind::Layer => Some(source.vector(&format!("{path}.bias"))?),
            NormKind::Rms => None,
        };
        Ok(Norm {
            weight,
            bias,
            eps: is.eps as f32,
            plus_one,
        })
    }

    /// The trainable tensors: weight and bias.
    pub(super) fn variables(&self) -> Vec<Tensor> {
        let bias = self.bias.as_ref().and_then(Vector::variable);
        self.weight
            .variable()
            .into_iter()
            .chain(bias)
            .cloned()
            .collect()
    }

    fn scale(&self) -> Result<std::borrow::Cow<'_, [f32]>> {
        let mut weight = self.weight.values()?;
        if self.plus_one {
            weight.to_mut().iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    /// Over rows `[n, d]`.
    pub(super) fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let weight = self.scale()?;
        Ok(match &self.bias {
            Some(bias) => norm::layer_norm(x, &weight, &bias.values()?, self.eps),
            None => norm::rms_norm(x, &weight, self.eps),
        })
    }

    /// The gradient of the input `x` for `dy`, added to `onto`, if any; those of the variables are
    /// pushed.
    pub(super) fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        onto: Option<&[f32]>,
        gradients: &mut Gradients,
    ) -> Result<Vec<f32>> {
        let weight = self.scale()?;
        let d = weight.len();
        let trained = self.weight.variable().is_some();
        let (mut dweight, mut dbias) = (vec![0.0; d], vec![0.0; d]);
        let arguments = norm::NormBackward {
            x,
            weight: &weight,
            eps: self.eps,
            dy,
            onto,
        };
        let dx = if self.bias.is_some() {
            let params = trained.then_some(norm::AffineGradients {
                dweight: &mut dweight,
                dbias: &mut dbias,
            });
            norm::layer_norm_backward(arguments, params)
        } else {
            let dweight = trained.then_some(dweight.as_mut_slice());
            norm::rms_norm_backward(arguments, dweight)
        };
        if trained {
            gradients.push(dweight);
            gradients.extend(self.bias.is_some().then_some(dbias));
        }
        Ok(dx)
    }

    /// [`Norm::forward`] of a tensor `[n, d]` in the processor's memory, differentiable.
    pub(super) fn over(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let y = self.forward(&ops::values(&x)?)?;
        let norm = self.clone();
        ops::fused(&x, &self.variables(), y, x.shape(), move |x, dy, _| {
            let mut params = Vec::new();
            let dx = Some(norm.backward(x, dy, None, &mut params)?);
            Ok(Gradient { dx, params })
        })
    }
}
