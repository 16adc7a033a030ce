//! The input that a router reads and the decision it returns, in the memory of a backend.

use std::borrow::Cow;

use candle_core::Tensor;

use super::Gates;
use crate::error::{Error, Result};

/// The input of a linear layer `[t, d_in]`, in the memory of the backend that computes it.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// In the processor's memory, row after row.
    Host(&'a [f32]),
    /// On a device.
    Device(&'a Tensor),
}

impl<'a> Input<'a> {
    /// Values of all rows: `t * d_in`.
    pub fn elem_count(&self) -> usize {
        match self {
            Input::Host(x) => x.len(),
            Input::Device(x) => x.elem_count(),
        }
    }

    /// The values in the processor's memory; those on a device are read back, and it is waited for.
    ///
    /// # Errors
    /// When the device fails.
    pub fn values(&self) -> Result<Cow<'a, [f32]>> {
        Ok(match self {
            Input::Host(x) => Cow::Borrowed(*x),
            Input::Device(x) => Cow::Owned(x.detach().flatten_all()?.to_vec1()?),
        })
    }
}

/// A router's decision. Every backend accepts both kinds.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Made on the processor.
    Host(Gates),
    /// Made on the input's device, without waiting for it.
    Device(DeviceGates),
}

impl From<Gates> for Decision {
    fn from(gates: Gates) -> Self {
        Decision::Host(gates)
    }
}

impl Decision {
    /// The gates in the processor's memory; those on a device are read back, and it is waited for.
    ///
    /// # Errors
    /// When the device fails, or a token chooses an expert twice.
    pub fn into_gates(self) -> Result<Gates> {
        match self {
            Decision::Host(gates) => Ok(gates),
            Decision::Device(gates) => gates.to_gates(),
        }
    }
}

/// The experts of every token and their weights on a device. A token may choose an expert once, and
/// experts must exist: neither is checked there.
#[derive(Debug, Clone)]
pub struct DeviceGates {
    indices: Tensor,
    weights: Tensor,
}

impl DeviceGates {
    /// Each token chooses k experts: `indices` of experts (u32) and `weights` (f32) are `[t, k]`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when these are not two matrices of one shape.
    pub fn new(indices: Tensor, weights: Tensor) -> Result<Self> {
        if indices.rank() != 2 || indices.dims() != weights.dims() {
            return Err(Error::Mismatch(format!(
                "experts {:?} and weights {:?} are no choice of k per token",
                indices.dims(),
                weights.dims()
            )));
        }
        Ok(DeviceGates { indices, weights })
    }

    /// The indices of the experts, `[t, k]`.
    pub fn indices(&self) -> &Tensor {
        &self.indices
    }

    /// The weights of the experts, `[t, k]`.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    fn to_gates(&self) -> Result<Gates> {
        let indices = self.indices.flatten_all()?.to_vec1()?;
        let weights = self.weights.detach().flatten_all()?.to_vec1()?;
        Gates::chosen(self.indices.dim(1)?, indices, weights)
    }
}
