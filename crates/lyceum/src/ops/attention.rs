//! Causal attention over packed sequences.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use lyceum_kernels::attention::{self, Heads};

use super::{Op, f32s, slice};

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

/// Gradients of [`Attention`] for q, k and v, end to end in one row; the arguments are q, k and v
/// likewise, and the gradient of the output `[t, heads * dim]`.
struct AttentionBack(Attention);

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
        let mut out = vec![0.0; q.len()];
        attention::forward(q, &self.spans(k, v), &self.heads, &mut out);
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
        let qkv = Tensor::cat(&[q.flatten_all()?, k.flatten_all()?, v.flatten_all()?], 0)?;
        let all = qkv.apply_op2_no_bwd(&dout.contiguous()?, &AttentionBack(self.clone()))?;
        let (n, m) = (q.elem_count(), k.elem_count());
        let part = |from: usize, like: &Tensor| -> Op<Option<Tensor>> {
            let part = all.narrow(0, from, like.elem_count())?;
            Ok(Some(part.reshape(like.shape())?))
        };
        Ok((part(0, q)?, part(n, k)?, part(n + m, v)?))
    }
}

impl CustomOp2 for AttentionBack {
    fn name(&self) -> &'static str {
        "ragged-attention-backward"
    }
    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        dout: &CpuStorage,
        dout_layout: &Layout,
    ) -> Op<(CpuStorage, Shape)> {
        let (qkv, dout) = (slice(qkv, qkv_layout)?, slice(dout, dout_layout)?);
        let n = dout.len();
        let (q, kv) = qkv.split_at(n);
        let (k, v) = kv.split_at(kv.len() / 2);
        let mut all = vec![0.0; qkv.len()];
        let (dq, rest) = all.split_at_mut(n);
        let (dk, dv) = rest.split_at_mut(k.len());
        attention::backward(q, k, v, dout, &self.0.lens, &self.0.heads, dq, dk, dv);
        Ok(f32s(all, qkv_layout.shape()))
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
