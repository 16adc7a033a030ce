//! RMS norm: with a frozen weight fused, with a variable composed of plain operations.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Shape, Tensor};
use lyceum_kernels::norm;

use super::{Op, f32s, slice};

#[derive(Clone)]
struct Rms {
    weight: Arc<[f32]>,
    eps: f32,
}

struct RmsBack(Rms);

impl CustomOp1 for Rms {
    fn name(&self) -> &'static str {
        "rms-norm"
    }
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0.0; x.len()];
        norm::rms_norm(x, &self.weight, self.eps, &mut y);
        Ok(f32s(y, layout.shape()))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Op<Option<Tensor>> {
        let back = RmsBack(self.clone());
        Ok(Some(
            x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &back)?,
        ))
    }
}

impl CustomOp2 for RmsBack {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (x, dy) = (slice(x, x_layout)?, slice(dy, dy_layout)?);
        let mut dx = vec![0.0; x.len()];
        norm::rms_norm_backward(x, &self.0.weight, self.0.eps, dy, &mut dx);
        Ok(f32s(dx, x_layout.shape()))
    }
}

/// RMS norm over the last axis with a frozen weight `[d]`.
///
/// # Errors
/// When `x` is not f32 rows of `weight.len()` values.
pub fn frozen_rms_norm(x: &Tensor, weight: &Arc<[f32]>, eps: f32) -> Op<Tensor> {
    if x.dim(D::Minus1)? != weight.len() {
        candle_core::bail!("a norm of {} values got {:?}", weight.len(), x.dims());
    }
    x.contiguous()?.apply_op1(Rms {
        weight: weight.clone(),
        eps,
    })
}

/// RMS norm over the last axis, differentiable in `x` and in the weight `[d]`.
///
/// # Errors
/// When the shapes do not agree.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Op<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let rms = (square + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&rms)?.broadcast_mul(weight)
}
