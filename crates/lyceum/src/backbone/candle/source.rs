//! A decoder's tensors on a device.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use lyceum_kernels::gemm::Precision;

use crate::backbone::checkpoint::{Weights, variable};
use crate::error::Result;

/// A source of a decoder's tensors.
#[derive(Clone, Copy)]
pub(in crate::backbone) enum Source<'a> {
    /// Variables on the device, which have the right shapes.
    Vars(&'a BTreeMap<String, Var>),
    /// The frozen tensors of a checkpoint, put on the device.
    Weights {
        weights: &'a Weights<'a>,
        precision: Precision,
        device: &'a Device,
    },
}

impl Source<'_> {
    /// A matrix `[d_out, d_in]`, which lies the other way round when `transposed`; frozen, in the
    /// type of the precision.
    pub(super) fn matrix(&self, name: &str, transposed: bool) -> Result<Tensor> {
        let mut matrix = self.tensor(name)?;
        if transposed {
            matrix = matrix.t()?;
        }
        match self {
            Source::Vars(_) => Ok(matrix),
            Source::Weights { precision, .. } => {
                let kind = match precision {
                    Precision::Bf16 => DType::BF16,
                    Precision::F32 | Precision::Int8 => DType::F32,
                };
                Ok(matrix.contiguous()?.to_dtype(kind)?)
            }
        }
    }

    /// A tensor of any shape in f32.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        match self {
            Source::Vars(vars) => variable(vars, name),
            Source::Weights {
                weights, device, ..
            } => {
                let shape = weights.shape(name)?.to_vec();
                let values = Tensor::from_vec(weights.values(name)?, shape, &Device::Cpu)?;
                Ok(values.to_device(device)?)
            }
        }
    }
}
