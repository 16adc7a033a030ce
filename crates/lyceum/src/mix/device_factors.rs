//! The factors of experts on a device, and their products with the inputs there.

use candle_core::Tensor;

use super::Mixing;
use crate::error::Result;
use crate::ops::candle as ops;

/// The factors of some experts on a device, each padded with zeros to the largest rank.
#[derive(Debug, Clone)]
pub(super) struct DeviceFactors {
    /// A, `[e, r, d_in]`.
    pub(super) down: Tensor,
    /// B transposed times the expert's scale, `[e, r, d_out]`.
    pub(super) up: Tensor,
}

impl DeviceFactors {
    /// The factors of the experts `indices` `[n]`.
    pub(super) fn select(&self, indices: &Tensor) -> Result<Self> {
        Ok(DeviceFactors {
            down: self.down.index_select(indices, 0)?,
            up: self.up.index_select(indices, 0)?,
        })
    }

    /// The update `[t, d_out]` for `x` `[t, d_in]` of these experts, which all tokens go through
    /// with the weights `shares` `[t or 1, e]`.
    pub(super) fn shared(&self, x: &Tensor, shares: &Tensor, mixing: Mixing) -> Result<Tensor> {
        let (e, r, _) = self.down.dims3()?;
        let h = ops::product(x, &self.down.flatten(0, 1)?)?;
        let h = h.reshape((x.dim(0)?, e, r))?;
        let h = weighed(&h, &shares.unsqueeze(2)?, mixing)?;
        ops::product(&h.flatten(1, 2)?, &self.up.flatten(0, 1)?.t()?)
    }

    /// The update `[t, d_out]` for `x` `[t, d_in]` where each token has factors of its own: these
    /// are of `t * k` experts, with the weights `shares` `[t, k]`.
    pub(super) fn own(&self, x: &Tensor, shares: &Tensor, mixing: Mixing) -> Result<Tensor> {
        let ((t, k), r) = (shares.dims2()?, self.down.dim(1)?);
        let down = self.down.reshape((t, k * r, ()))?;
        let up = self.up.reshape((t, k * r, ()))?;
        let h = down.matmul(&x.unsqueeze(2)?.contiguous()?)?;
        let h = weighed(&h.reshape((t, k, r))?, &shares.unsqueeze(2)?, mixing)?;
        Ok(h.reshape((t, 1, k * r))?.matmul(&up)?.squeeze(1)?)
    }
}

/// `A x` of each expert, `h` `[t, e, r]`, weighed by `shares` `[t or 1, e, 1]` so that its product
/// with the B's is the update.
fn weighed(h: &Tensor, shares: &Tensor, mixing: Mixing) -> Result<Tensor> {
    let h = h.broadcast_mul(shares)?;
    Ok(match mixing {
        Mixing::Outputs => h,
        Mixing::Factors => h.sum_keepdim(1)?.broadcast_mul(shares)?,
    })
}
