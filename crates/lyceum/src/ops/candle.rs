//! The kernels' functions composed of candle's operations, for devices whose memory the kernels
//! cannot read. One function per kernel; activations are rows `[t, d]`, as everywhere.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, DType, Device, Layout, MetalStorage, Shape, Storage,
    Tensor, bail,
};
use lyceum_kernels::activation::Activation;

use crate::error::Result;

/// Far below every score, and still a number.
pub(crate) const UNSEEN: f32 = -1e30;

/// A value made once, for the device that requests it first.
#[derive(Debug, Clone)]
pub(crate) struct Placed<T>(OnceLock<(Device, T)>);

impl<T: Clone> Placed<T> {
    pub(crate) fn new() -> Self {
        Placed(OnceLock::new())
    }

    /// Returns the value for `device`, and calls `make` if there is none yet.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn on(&self, device: &Device, make: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.0.get() {
            Some((place, made)) if place.same_device(device) => Ok(made.clone()),
            _ => {
                let made = make()?;
                self.0.get_or_init(|| (device.clone(), made.clone()));
                Ok(made)
            }
        }
    }
}

type Back = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// A result that exists already, on any device, and how its gradient becomes that of the input.
struct Known {
    result: Tensor,
    backward: Box<Back>,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.result.storage_and_layout();
        match &*storage {
            Storage::Cpu(own) => Ok((own.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("a result on another device than its input"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.result.storage_and_layout();
        match &*storage {
            Storage::Cuda(own) => Ok((own.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("a result on another device than its input"),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        let (storage, layout) = self.result.storage_and_layout();
        match &*storage {
            Storage::Metal(own) => Ok((own.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("a result on another device than its input"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = (self.backward)(&dy.contiguous()?);
        Ok(Some(dx.map_err(candle_core::Error::wrap)?))
    }
}

/// `y`, which was computed from `x` without a graph, with `backward` from its gradient to that of
/// `x`: for what candle would also compute gradients nobody asked for.
fn known(
    x: &Tensor,
    y: Tensor,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(y);
    }
    // What is copied is a storage as a whole.
    let result = y.force_contiguous()?;
    let backward = Box::new(backward);
    Ok(x.apply_op1(Known { result, backward })?)
}

/// `x W^T` with `w` `[d_out, d_in]`; in the type of `w`, f32 otherwise. A `w` that is not trained
/// costs nothing in the backward pass.
pub(crate) fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if w.track_op() {
        return Ok(x.matmul(&w.t()?)?);
    }
    let plain = |x: &Tensor, w: &Tensor| -> Result<Tensor> {
        let y = x.to_dtype(w.dtype())?.matmul(w)?;
        Ok(y.to_dtype(DType::F32)?)
    };
    let y = plain(&x.detach(), &w.t()?)?;
    let w = w.clone();
    known(x, y, move |dy| plain(dy, &w))
}

/// The rows of `x` at `ids`: each row of `x` is there once, at the places `places`, and other
/// places hold copies that nothing depends on.
pub(crate) fn spread_out(x: &Tensor, ids: &Tensor, places: &Tensor) -> Result<Tensor> {
    let y = x.detach().index_select(ids, 0)?;
    let places = places.clone();
    known(x, y, move |dy| Ok(dy.index_select(&places, 0)?))
}

/// The opposite: the rows of `x` at `places`; `ids` and `real` (1 or 0, `[n, 1]`) say which row
/// each place holds, if it holds one.
pub(crate) fn gather(x: &Tensor, ids: &Tensor, real: &Tensor, places: &Tensor) -> Result<Tensor> {
    let y = x.detach().index_select(places, 0)?;
    let (ids, real) = (ids.clone(), real.clone());
    known(x, y, move |dy| {
        Ok(dy.index_select(&ids, 0)?.broadcast_mul(&real)?)
    })
}

/// Layer norm with a bias, RMS norm without one, over the last axis.
pub(crate) fn norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let centred = match bias {
        Some(_) => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        None => x.clone(),
    };
    let square = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(square + eps)?.sqrt()?)?;
    let scaled = normed.broadcast_mul(weight)?;
    Ok(match bias {
        Some(bias) => scaled.broadcast_add(bias)?,
        None => scaled,
    })
}

/// Each value through `kind`.
pub(crate) fn activation(kind: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match kind {
        Activation::GeluTanh => x.gelu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::Silu => x.silu()?,
        Activation::Relu => x.relu()?,
    })
}

/// `1 / (1 + e^-x)`, whose gradient is a number everywhere.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((((x * 0.5)?.tanh()? + 1.0)? * 0.5)?)
}

/// `cap tanh(x / cap)`, if there is a cap.
pub(crate) fn soft_cap(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    Ok(match cap {
        Some(cap) => ((x / cap)?.tanh()? * cap)?,
        None => x,
    })
}

/// Softmax over the last axis.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let shares = x
        .broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    Ok(shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?)
}

/// The `k` largest of each row of `scores` `[t, n]`, and their places (u32): both `[t, k]`. Of equal
/// scores the first counts as the larger. Nothing is waited for.
pub(crate) fn top_k(scores: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let (t, n) = scores.dims2()?;
    let places = Tensor::arange(0, n as u32, scores.device())?;
    if k == n {
        let places = places.broadcast_as((t, n))?.contiguous()?;
        return Ok((places, scores.clone()));
    }
    let places = places.to_dtype(DType::F32)?.broadcast_as((t, n))?;
    let last = Tensor::full((n - 1) as f32, (t, n), scores.device())?;
    let taken = Tensor::full(f32::NEG_INFINITY, (t, n), scores.device())?;
    let (mut left, mut found, mut tops) = (scores.clone(), Vec::new(), Vec::new());
    for _ in 0..k {
        let top = left.max_keepdim(1)?;
        let first = left.broadcast_eq(&top)?.where_cond(&places, &last)?;
        let first = first.min_keepdim(1)?;
        left = places.broadcast_eq(&first)?.where_cond(&taken, &left)?;
        found.push(first);
        tops.push(top);
    }
    let places = Tensor::cat(&found, 1)?.to_dtype(DType::U32)?;
    Ok((places, Tensor::cat(&tops, 1)?))
}

/// The first `2 * half` values of every head of `x` `[t, heads, dim]` rotated by `cos` and `sin`
/// `[t, 1, half]`, as [`lyceum_kernels::rope::rotate`] does.
pub(crate) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (dim, half) = (x.dim(2)?, cos.dim(2)?);
    let first = x.narrow(2, 0, half)?;
    let second = x.narrow(2, half, half)?;
    let mut parts = vec![
        (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
        (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
    ];
    if dim > 2 * half {
        parts.push(x.narrow(2, 2 * half, dim - 2 * half)?);
    }
    Ok(Tensor::cat(&parts, 2)?)
}

/// `-log softmax(logits)[id]` per row: logits `[n, v]`, result `[n]`.
pub(crate) fn cross_entropy(logits: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
    let ids = Tensor::from_slice(ids, (ids.len(), 1), logits.device())?;
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let logits = logits.broadcast_sub(&top)?;
    let total = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok((total - logits.gather(&ids, 1)?)?.squeeze(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_is_taken() {
        let rows = [[1f32, 3.0, 3.0, 2.0], [0.0; 4], [-1.0, -4.0, -2.0, -2.0]];
        let scores = Tensor::new(&rows, &Device::Cpu).unwrap();
        for (k, want) in [
            (2, vec![vec![1, 2], vec![0, 1], vec![0, 2]]),
            (3, vec![vec![1, 2, 3], vec![0, 1, 2], vec![0, 2, 3]]),
            (4, vec![vec![0u32, 1, 2, 3]; 3]),
        ] {
            let (places, tops) = top_k(&scores, k).unwrap();
            assert_eq!(places.to_vec2::<u32>().unwrap(), want);
            let own = scores.gather(&places, 1).unwrap();
            assert_eq!(
                tops.to_vec2::<f32>().unwrap(),
                own.to_vec2::<f32>().unwrap()
            );
        }
    }
}
