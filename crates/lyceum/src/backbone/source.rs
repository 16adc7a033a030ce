//! The tensors of a decoder, as its backend computes with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lyceum_kernels::gemm::{Packed, Rounding};

use super::checkpoint::{Weights, bad};
use super::load_options::Precision;
use crate::error::{Error, Result};
use crate::mix::{Vector, Weight};

/// A source of a decoder's tensors.
pub(crate) struct Source<'a> {
    from: From<'a>,
    precision: Precision,
    device: Option<Device>,
}

#[derive(Clone, Copy)]
enum From<'a> {
    Vars(&'a BTreeMap<String, Var>, Rounding),
    Weights(&'a Weights<'a>),
}

impl<'a> Source<'a> {
    /// Trained: the decoder's tensors are these variables, which have the right shapes; products
    /// round them so. Where they are on `device` all is composed there, else the kernels compute.
    pub(crate) fn trained(
        vars: &'a BTreeMap<String, Var>,
        rounding: Rounding,
        device: Option<&Device>,
    ) -> Self {
        Source {
            from: From::Vars(vars, rounding),
            precision: Precision::F32,
            device: device.cloned(),
        }
    }

    /// Frozen: the decoder's tensors are those of a checkpoint.
    pub(super) fn stored(
        weights: &'a Weights<'a>,
        precision: Precision,
        device: Option<Device>,
    ) -> Self {
        Source {
            from: From::Weights(weights),
            precision,
            device,
        }
    }

    /// The device on which candle's operations compute; `None` for the CPU kernels.
    pub(super) fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// The values of a tensor of the weights on the device.
    fn placed(&self, weights: &Weights<'_>, name: &str, device: &Device) -> Result<Tensor> {
        let shape = weights.shape(name)?.to_vec();
        let values = Tensor::from_vec(weights.values(name)?, shape, &Device::Cpu)?;
        Ok(values.to_device(device)?)
    }

    /// The rounding of products' factors.
    pub(super) fn rounding(&self) -> Rounding {
        match (self.from, self.precision) {
            (From::Vars(_, rounding), _) => rounding,
            (_, Precision::Bf16) => Rounding::Bf16,
            (_, Precision::F32 | Precision::Int8) => Rounding::F32,
        }
    }

    /// A matrix `[d_out, d_in]`, which lies the other way round when `transposed`.
    pub(super) fn matrix(&self, name: &str, transposed: bool) -> Result<Weight> {
        let weights = match self.from {
            From::Vars(vars, rounding) => {
                let matrix = var(vars, name)?;
                let matrix = if transposed { matrix.t()? } else { matrix };
                return Ok(Weight::Plain(matrix, rounding));
            }
            From::Weights(weights) => weights,
        };
        if let Some(device) = &self.device {
            let mut matrix = self.placed(weights, name, device)?;
            if transposed {
                matrix = matrix.t()?.contiguous()?;
            }
            if self.precision == Precision::Bf16 {
                matrix = matrix.to_dtype(DType::BF16)?;
            }
            return Ok(Weight::Plain(matrix, self.rounding()));
        }
        let &[mut n_out, mut n_in] = weights.shape(name)? else {
            return Err(Error::Mismatch(format!("tensor `{name}` is not a matrix")));
        };
        if let (Some((format, bytes)), false) = (weights.blocks(name)?, transposed) {
            let packed = Packed::quantised((format, bytes), (n_out, n_in), self.rounding());
            return Ok(Weight::Frozen(Arc::new(packed)));
        }
        // What lies the other way round is transposed as a whole.
        let mut whole = None;
        if transposed {
            whole = Some(transpose(&weights.values(name)?, n_out, n_in));
            (n_out, n_in) = (n_in, n_out);
        }
        let read = |first: usize, rows: &mut [f32]| -> Result<()> {
            match &whole {
                Some(all) => rows.copy_from_slice(&all[first * n_in..][..rows.len()]),
                None => weights.rows(name, first, rows)?,
            }
            let fits =
                |w: &f32| self.precision != Precision::Int8 || w.abs() <= Packed::LARGEST_INT8;
            match rows.iter().all(fits) {
                true => Ok(()),
                false => Err(bad(name, "has values too large for int8")),
            }
        };
        let packed = Packed::read((n_out, n_in), self.precision, read)?;
        Ok(Weight::Frozen(Arc::new(packed)))
    }

    /// A bias or a norm's parameter.
    pub(super) fn vector(&self, name: &str) -> Result<Vector> {
        Ok(match (self.from, &self.device) {
            (From::Vars(vars, _), _) => Vector::Plain(var(vars, name)?),
            (From::Weights(weights), None) => Vector::Frozen(weights.values(name)?.into()),
            (From::Weights(weights), Some(device)) => {
                Vector::Plain(self.placed(weights, name, device)?)
            }
        })
    }

    /// A table whose rows are looked up.
    pub(super) fn table(&self, name: &str) -> Result<Tensor> {
        match self.from {
            From::Vars(vars, _) => var(vars, name),
            From::Weights(weights) => {
                let device = self.device.as_ref().unwrap_or(&Device::Cpu);
                self.placed(weights, name, device)
            }
        }
    }
}

fn var(vars: &BTreeMap<String, Var>, name: &str) -> Result<Tensor> {
    let found = vars.get(name).map(|v| v.as_tensor().clone());
    found.ok_or_else(|| Error::Mismatch(format!("there is no variable `{name}`")))
}

/// `[n, m]` to `[m, n]`.
fn transpose(values: &[f32], n: usize, m: usize) -> Vec<f32> {
    let column = |j: usize| (0..n).map(move |i| values[i * m + j]);
    (0..m).flat_map(column).collect()
}
