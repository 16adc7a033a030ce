//! Causal attention over packed sequences.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use lyceum_kernels::attention::{self, Gradients, Heads};

use super::{Op, cpu_slice, f32s, slice};

#[derive(Clone)]
struct Attention {
    lens: Arc<[usize]>,
    heads: Heads,
}

impl Attention {
    fn spans<'a>(&self, k: &'a [f32], v: &'a [f32]) -> Vec<attention::Span<'a>> {
        let width = self.heads.kv_width();
        let mut start = 0;
        let span = |&len: &usize| {
            let range = start * width..(start + len) * width;
            start += len;
            let part = attention::Part {
                k: &k[range.clone()],
                v: &v[range],
            };
            attention::Span {
                rows: len,
                parts: vec![part],
            }
        };
        self.lens.iter().map(span).collect()
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "ragged-attention"
    }
    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let q = slice(q, q_layout)?;
        let (k, v) = (slice(k, k_layout)?, slice(v, v_layout)?);
        let out = attention::forward(q, &self.spans(k, v), &self.heads);
        Ok(f32s(out, q_layout.shape()))
    }
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dout: &Tensor,
    ) -> Op<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dout = dout.contiguous()?;
        let [q_in, k_in, v_in, dout] = [q, k, v, &dout].map(Tensor::storage_and_layout);
        let inputs = (
            cpu_slice(&q_in.0, q_in.1)?,
            cpu_slice(&k_in.0, k_in.1)?,
            cpu_slice(&v_in.0, v_in.1)?,
        );
        let dout = cpu_slice(&dout.0, dout.1)?;
        let Gradients { dq, dk, dv } = attention::backward(inputs, dout, &self.lens, &self.heads);
        let like =
            |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((like(dq, q)?, like(dk, k)?, like(dv, v)?))
    }
}

/// Causal attention of packed sequences: q and the result are `[t, heads * dim]`, k and v
/// `[t, kv_heads * dim]`; `lens` sums to `t`.
///
/// # Errors
/// When shapes do not agree.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, lens: &Arc<[usize]>, heads: Heads) -> Op<Tensor> {
    let t = lens.iter().sum();
    let fits = q.dims2()? == (t, heads.width())
        && k.dims2()? == (t, heads.kv_width())
        && v.dims2()? == (t, heads.kv_width());
    if !fits {
        let (q, k, v) = (q.dims(), k.dims(), v.dims());
        candle_core::bail!("attention of {t} tokens with q {q:?}, k {k:?}, v {v:?}, {heads:?}");
    }
    let op = Attention {
        lens: lens.clone(),
        heads,
    };
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}
