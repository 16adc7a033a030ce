//! Rotary positions.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use lyceum_kernels::rope::{self, Angles, Turn};

use super::{Op, f32s, slice};

struct Rotate {
    angles: Arc<Angles>,
    heads: (usize, usize),
    turn: Turn,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary"
    }
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0.0; x.len()];
        rope::rotate(x, &self.angles, self.heads, self.turn, &mut y);
        Ok(f32s(y, layout.shape()))
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Op<Option<Tensor>> {
        let back = Rotate {
            angles: self.angles.clone(),
            heads: self.heads,
            turn: Turn::Back,
        };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// Turns the pairs of every head of `x` `[t, heads * dim]` by `angles` (of `t` tokens).
///
/// # Errors
/// When `x` has another shape, or the angles are of another number of tokens.
pub fn rotate(x: &Tensor, angles: &Arc<Angles>, (heads, dim): (usize, usize)) -> Op<Tensor> {
    let (t, width) = x.dims2()?;
    if width != heads * dim || angles.cos.len() != t * angles.half || 2 * angles.half > dim {
        let (turned, half) = (angles.cos.len(), angles.half);
        candle_core::bail!("{turned} angles of {half} pairs for {t} rows of {heads} x {dim}");
    }
    x.contiguous()?.apply_op1(Rotate {
        angles: angles.clone(),
        heads: (heads, dim),
        turn: Turn::Forward,
    })
}
