//! Fixed weights: the same for every token and site.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::mix::{Gates, Pass, Router};
use crate::name::Site;

/// The same weights everywhere.
#[derive(Debug)]
pub struct Fixed(Tensor);

impl Fixed {
    /// These weights, one per expert in order.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn new(weights: &[f32]) -> Result<Self> {
        Ok(Fixed(Tensor::from_slice(
            weights,
            weights.len(),
            &Device::Cpu,
        )?))
    }

    /// `1 / experts` each.
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn uniform(experts: usize) -> Result<Self> {
        Fixed::new(&vec![1.0 / experts as f32; experts])
    }
}

impl Router for Fixed {
    fn gates(&self, _: &Site, _: &Tensor, _: &Pass<'_>) -> Result<Gates> {
        Ok(Gates::Shared(self.0.clone()))
    }
}
