//! The one operation that puts fused kernels into candle's graph.

use std::ops::{Deref, Range};
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Storage, StorageRef, Tensor};

use crate::error::{Error, Result};

/// The values of a contiguous f32 tensor, in place.
pub(crate) struct Values<'a>(StorageRef<'a>, Range<usize>);

impl Deref for Values<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.0 {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.1.clone()],
            _ => &[],
        }
    }
}

/// The values of `x`.
///
/// # Errors
/// When `x` is not f32, or its values do not lie side by side.
pub(crate) fn values(x: &Tensor) -> Result<Values<'_>> {
    let (storage, layout) = x.storage_and_layout();
    let range = layout.contiguous_offsets();
    match (&*storage, range) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Values(storage, start..end)),
        _ => Err(Error::invalid(
            "a fused operation needs contiguous f32 values in memory",
        )),
    }
}

/// The result of a backward pass.
pub(crate) struct Gradient {
    /// The gradient of the input, unless it was not wanted.
    pub(crate) dx: Option<Vec<f32>>,
    /// Those of the parameters, in their order.
    pub(crate) params: Vec<Vec<f32>>,
}

type Back = dyn Fn(&[f32], &[f32], bool) -> Result<Gradient> + Send + Sync;

/// A result that exists already, and how gradients go back from it.
struct Fused {
    result: Mutex<Option<(Vec<f32>, Shape)>>,
    backward: Box<Back>,
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "fused"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        match self.result.lock().ok().and_then(|mut result| result.take()) {
            Some((values, shape)) => Ok((CpuStorage::F32(values), shape)),
            None => candle_core::bail!("a fused operation has one result"),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let back =
            || -> Result<Gradient> { (self.backward)(&values(x)?, &values(&dy)?, x.track_op()) };
        let Gradient { dx, params: own } = back().map_err(candle_core::Error::wrap)?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        let dx = dx
            .filter(|_| x.track_op())
            .map(|dx| tensor(dx, x))
            .transpose()?;
        let own = match own.len() {
            0 => None,
            1 => own.into_iter().next(),
            _ => Some(own.concat()),
        };
        Ok((dx, own.map(|own| tensor(own, params)).transpose()?))
    }
}

/// The result `y` of something computed from `x`, which must be contiguous, and from `params`, as
/// a tensor of `shape` whose gradients are what `backward(x, dy, wants_dx)` gives. Without a
/// variable behind `x` or in `params` it is a plain tensor.
///
/// # Errors
/// When `y` has another shape.
pub(crate) fn fused(
    x: &Tensor,
    params: &[Tensor],
    y: Vec<f32>,
    shape: impl Into<Shape>,
    backward: impl Fn(&[f32], &[f32], bool) -> Result<Gradient> + Send + Sync + 'static,
) -> Result<Tensor> {
    let shape = shape.into();
    if !x.track_op() && params.is_empty() {
        return Ok(Tensor::from_vec(y, shape, &Device::Cpu)?);
    }
    if y.len() != shape.elem_count() {
        return Err(Error::invalid("a result of another shape"));
    }
    let flat = |param: &Tensor| param.contiguous()?.flatten_all();
    let params = match params {
        [] => Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?,
        [one] => flat(one)?,
        all => Tensor::cat(&all.iter().map(flat).collect::<Result<Vec<_>, _>>()?, 0)?,
    };
    let op = Fused {
        result: Mutex::new(Some((y, shape))),
        backward: Box::new(backward),
    };
    Ok(x.apply_op2(&params, op)?)
}
