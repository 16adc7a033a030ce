//! The kernels as candle operations: each wrapped once, each with its own backward.
//!
//! Frozen weights are held by the operation, not by the graph, so no gradient is ever computed
//! for them (candle's own matrix product always computes both).

mod activation;
mod attention;
mod norm;
mod product;
mod rope;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Storage, Tensor};
use lyceum_kernels::loss;

pub use activation::{activate, gate};
pub use attention::attend;
pub use norm::{frozen_rms_norm, rms_norm};
pub use product::{product, trained_product};
pub use rope::rotate;

type Op<T> = candle_core::Result<T>;

/// The f32 values of `storage` under `layout`, which must be contiguous.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Op<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operation needs contiguous input"),
    }
}

/// The f32 values of a tensor's storage, which must lie in the processor's memory.
fn cpu_slice<'a>(storage: &'a Storage, layout: &Layout) -> Op<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => slice(storage, layout),
        _ => candle_core::bail!("a fused operation runs on the processor only"),
    }
}

fn f32s(values: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), shape.into())
}

fn rows_of(layout: &Layout) -> Op<(usize, usize)> {
    layout.shape().dims2()
}

/// Layer norm with parameters that are constants (no gradient for them).
#[derive(Clone)]
struct FrozenNorm {
    weight: Arc<[f32]>,
    bias: Arc<[f32]>,
    eps: f32,
}

struct FrozenNormBack(FrozenNorm);

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }
    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0.0; x.len()];
        lyceum_kernels::norm::layer_norm(
            x,
            &self.weight,
            &self.bias,
            self.eps,
            self.weight.len(),
            &mut y,
        );
        Ok(f32s(y, layout.shape()))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Op<Option<Tensor>> {
        let back = FrozenNormBack(self.clone());
        Ok(Some(
            x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &back)?,
        ))
    }
}

impl CustomOp2 for FrozenNormBack {
    fn name(&self) -> &'static str {
        "layer-norm-backward"
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
        let FrozenNorm { weight, eps, .. } = &self.0;
        lyceum_kernels::norm::layer_norm_backward(x, weight, *eps, weight.len(), dy, &mut dx, None);
        Ok(f32s(dx, x_layout.shape()))
    }
}

/// Layer norm over the last axis with frozen weight and bias `[d]`.
///
/// # Errors
/// When `x` is not f32 rows of `weight.len()` values.
pub fn frozen_norm(x: &Tensor, weight: &Arc<[f32]>, bias: &Arc<[f32]>, eps: f32) -> Op<Tensor> {
    let op = FrozenNorm {
        weight: weight.clone(),
        bias: bias.clone(),
        eps,
    };
    x.contiguous()?.apply_op1(op)
}

/// Layer norm whose parameters are variables: gradients for all three.
struct Norm {
    eps: f32,
}

/// Gradients of [`Norm`], packed as `[t + 2, d]`: dx, then dweight, then dbias.
struct NormBack {
    eps: f32,
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "layer-norm-trained"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let mut y = vec![0.0; x.len()];
        let bias = slice(bias, bias_layout)?;
        lyceum_kernels::norm::layer_norm(x, weight, bias, self.eps, weight.len(), &mut y);
        Ok(f32s(y, x_layout.shape()))
    }
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Op<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let all = x.contiguous()?.apply_op3_no_bwd(
            weight,
            &dy.contiguous()?,
            &NormBack { eps: self.eps },
        )?;
        let t = x.dims2()?.0;
        let dx = all.narrow(0, 0, t)?;
        Ok((Some(dx), Some(all.get(t)?), Some(all.get(t + 1)?)))
    }
}

impl CustomOp3 for NormBack {
    fn name(&self) -> &'static str {
        "layer-norm-trained-backward"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (t, d) = rows_of(x_layout)?;
        let mut all = vec![0.0; (t + 2) * d];
        let (dx, params) = all.split_at_mut(t * d);
        let params = params.split_at_mut(d);
        lyceum_kernels::norm::layer_norm_backward(
            slice(x, x_layout)?,
            slice(weight, weight_layout)?,
            self.eps,
            d,
            slice(dy, dy_layout)?,
            dx,
            Some(params),
        );
        Ok(f32s(all, (t + 2, d)))
    }
}

/// Layer norm over the last axis with trained weight and bias `[d]`; x `[t, d]`.
///
/// # Errors
/// When the shapes do not agree.
pub fn trained_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Op<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, Norm { eps })
}

/// Cross-entropy of `[n, v]` logits at `n` ids.
struct CrossEntropy(Arc<[u32]>);
struct CrossEntropyBack(Arc<[u32]>);

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }
    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Op<(CpuStorage, Shape)> {
        let mut losses = vec![0.0; self.0.len()];
        loss::cross_entropy(slice(logits, layout)?, &self.0, &mut losses);
        Ok(f32s(losses, self.0.len()))
    }
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Op<Option<Tensor>> {
        let back = CrossEntropyBack(self.0.clone());
        Ok(Some(
            logits
                .contiguous()?
                .apply_op2_no_bwd(&grad.contiguous()?, &back)?,
        ))
    }
}

impl CustomOp2 for CrossEntropyBack {
    fn name(&self) -> &'static str {
        "cross-entropy-backward"
    }
    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (logits, grad) = (slice(logits, layout)?, slice(grad, grad_layout)?);
        let mut out = vec![0.0; logits.len()];
        loss::cross_entropy_backward(logits, &self.0, grad, &mut out);
        Ok(f32s(out, layout.shape()))
    }
}

/// `-log softmax(logits)[id]` per row: logits `[n, v]`, result `[n]`.
///
/// # Errors
/// When there are not as many ids as rows, or an id is outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, ids: &Arc<[u32]>) -> Op<Tensor> {
    let (n, v) = logits.dims2()?;
    if n != ids.len() || ids.iter().any(|&id| id as usize >= v) {
        candle_core::bail!(
            "{} target ids for {n} rows over a vocabulary of {v}",
            ids.len()
        );
    }
    logits.contiguous()?.apply_op1(CrossEntropy(ids.clone()))
}

/// The rows of `table` `[n, d]` at `ids` `[t]`: `[t, d]`.
///
/// # Errors
/// When an id is out of range.
pub fn rows(table: &Tensor, ids: &Tensor) -> Op<Tensor> {
    table.index_select(ids, 0)
}
