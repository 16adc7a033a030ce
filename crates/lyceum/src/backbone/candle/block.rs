//! Blocks in candle's operations: attention, MLP and norms.

use candle_core::Tensor;
use lyceum_kernels::activation::Activation;

use super::batch::Batch;
use super::cache::Cache;
use super::source::Source;
use crate::backbone::config::layout::{Norms, Qkv, Up};
use crate::backbone::config::{self, Config, Linear, NormKind};
use crate::error::Result;
use crate::mix::DeviceLinear;
use crate::name::Site;
use crate::ops::candle;

/// One block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    norms: Norms<Norm>,
    attention: Attention,
    mlp: Mlp,
}

#[derive(Debug, Clone)]
struct Attention {
    qkv: Qkv<DeviceLinear>,
    /// Norms of the heads of q and k.
    norms: Option<[Norm; 2]>,
    shape: config::Attention,
    layer: config::Layer,
    out: DeviceLinear,
}

#[derive(Debug, Clone)]
struct Mlp {
    up: Up<DeviceLinear>,
    down: DeviceLinear,
    activation: Activation,
}

impl Block {
    /// Block `i` of `config`, which has one.
    pub(super) fn new(config: &Config, i: usize, source: &Source<'_>) -> Result<Self> {
        let linear = |linear: Linear| {
            let weight = source.matrix(&format!("{}.weight", linear.path), config.transposed)?;
            let bias = match linear.bias {
                true => Some(source.tensor(&format!("{}.bias", linear.path))?),
                false => None,
            };
            Ok(DeviceLinear::new(Site::new(linear.path), weight, bias))
        };
        let norm = |path: String| Norm::new(source, &path, config.norm);
        let layout = config.layout(i).map(linear, norm)?;
        Ok(Block {
            norms: layout.norms,
            attention: Attention {
                qkv: layout.qkv,
                norms: layout.qk_norms,
                shape: config.attention,
                layer: config.layers[i],
                out: layout.out,
            },
            mlp: Mlp {
                up: layout.up,
                down: layout.down,
                activation: config.mlp.activation,
            },
        })
    }

    /// The stream `[t, d]` after this block, which is number `layer`.
    pub(super) fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        batch: &mut Batch<'_>,
    ) -> Result<Tensor> {
        let h = self.norms.attention().forward(x)?;
        let attended = self.attention.forward(layer, &h, cache, batch)?;
        let made = |h: &Tensor| self.mlp.forward(h, batch);
        Ok(match &self.norms {
            Norms::Sequential { mlp, .. } => {
                let x = (x + attended)?;
                (&x + made(&mlp.forward(&x)?)?)?
            }
            Norms::Sandwich {
                mlp,
                after_attention,
                after_mlp,
                ..
            } => {
                let x = (x + after_attention.forward(&attended)?)?;
                let made = made(&mlp.forward(&x)?)?;
                (&x + after_mlp.forward(&made)?)?
            }
            Norms::Parallel { mlp, .. } => ((x + attended)? + made(&mlp.forward(x)?)?)?,
            Norms::Shared(_) => ((x + attended)? + made(&h)?)?,
        })
    }
}

impl Attention {
    fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        batch: &mut Batch<'_>,
    ) -> Result<Tensor> {
        let config::Attention {
            heads,
            kv_heads: kv,
            dim,
            soft_cap,
            ..
        } = self.shape;
        let groups = heads / kv;
        let (q, k, v) = self.projected(x, batch)?;
        let norm = |i: usize| self.norms.as_ref().map(|norms| &norms[i]);
        let q = rotated(&q, norm(0), dim, batch)?;
        let k = rotated(&k, norm(1), dim, batch)?;
        let (n, rows) = (batch.queries.n, batch.queries.longest);
        // Heads that share keys come one after another, as more rows of one product.
        let q = batch.queries.lay(&q)?.reshape((n, rows, kv, groups, dim))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((n * kv, groups * rows, dim))?;
        let side = |x: &Tensor| -> Result<Tensor> {
            let x = batch.queries.lay(x)?.reshape((n, rows, kv, dim))?;
            Ok(x.transpose(1, 2)?.contiguous()?.flatten(0, 1)?)
        };
        let (mut k, mut v) = (side(&k)?, side(&v.contiguous()?)?); // [n * kv, rows, dim]
        if let Some(cache) = cache {
            (k, v) = cache.append(layer, &k, &v, batch)?;
        }
        let keys = batch.keys;
        let scores = (q.matmul(&k.t()?)? * self.layer.scale)?;
        let scores = candle::soft_cap(scores, soft_cap)?;
        let scores = scores.reshape((n, kv * groups, rows, keys))?;
        let mask = batch.mask(self.layer.window)?;
        let shares = candle::softmax(&scores.broadcast_add(&mask)?)?;
        let seen = shares.reshape((n * kv, groups * rows, keys))?.matmul(&v)?;
        let seen = seen.reshape((n, kv, groups, rows, dim))?;
        let seen = seen.permute((0, 3, 1, 2, 4))?.contiguous()?;
        let seen = seen.reshape((n * rows, heads * dim))?;
        self.out.forward(&batch.queries.pack(&seen)?, batch.pass)
    }

    /// q, k and v `[t, heads * dim]`.
    fn projected(&self, x: &Tensor, batch: &Batch<'_>) -> Result<(Tensor, Tensor, Tensor)> {
        let (pass, shape) = (batch.pass, self.shape);
        let (q, kv) = (shape.heads * shape.dim, shape.kv_heads * shape.dim);
        match &self.qkv {
            Qkv::Separate([q, k, v]) => Ok((
                q.forward(x, pass)?,
                k.forward(x, pass)?,
                v.forward(x, pass)?,
            )),
            Qkv::Fused(all) => {
                let all = all.forward(x, pass)?;
                let part = |from, width| all.narrow(1, from, width);
                Ok((part(0, q)?, part(q, kv)?, part(q + kv, kv)?))
            }
            Qkv::Interleaved(all) => {
                let all = all.forward(x, pass)?;
                let (t, heads) = (all.dims2()?.0, shape.heads);
                let all = all.reshape((t, heads, 3, shape.dim))?;
                let part = |i| all.narrow(2, i, 1)?.contiguous()?.reshape((t, q));
                Ok((part(0)?, part(1)?, part(2)?))
            }
        }
    }
}

/// q or k `[t, heads * dim]` normed and rotated, where the family does so.
fn rotated(x: &Tensor, norm: Option<&Norm>, dim: usize, batch: &Batch<'_>) -> Result<Tensor> {
    let (t, width) = x.dims2()?;
    let mut x = x.contiguous()?.reshape((t, width / dim, dim))?;
    if let Some(norm) = norm {
        x = norm.forward(&x)?;
    }
    if let Some((cos, sin)) = &batch.angles {
        x = candle::rotate(&x, cos, sin)?;
    }
    Ok(x.reshape((t, width))?)
}

impl Mlp {
    fn forward(&self, x: &Tensor, batch: &Batch<'_>) -> Result<Tensor> {
        let pass = batch.pass;
        let inner = match &self.up {
            Up::Plain(up) => candle::activation(self.activation, &up.forward(x, pass)?)?,
            Up::Gated([gate, up]) => {
                let gate = candle::activation(self.activation, &gate.forward(x, pass)?)?;
                (gate * up.forward(x, pass)?)?
            }
            Up::Fused(both) => {
                let both = both.forward(x, pass)?;
                let width = both.dims2()?.1 / 2;
                let half = |i: usize| both.narrow(1, i * width, width)?.contiguous();
                (candle::activation(self.activation, &half(0)?)? * half(1)?)?
            }
        };
        self.down.forward(&inner, pass)
    }
}

/// Layer norm, or RMS norm without a bias.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
    /// `true` if the weight is stored less one.
    plus_one: bool,
}

impl Norm {
    pub(super) fn new(source: &Source<'_>, path: &str, is: config::Norm) -> Result<Self> {
        let bias = match is.kind {
            NormKind::Layer => Some(source.tensor(&format!("{path}.bias"))?),
            NormKind::Rms => None,
        };
        Ok(Norm {
            weight: source.tensor(&format!("{path}.weight"))?,
            bias,
            eps: is.eps,
            plus_one: is.plus_one,
        })
    }

    /// Over the last axis.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut weight = self.weight.clone();
        if self.plus_one {
            weight = (weight + 1.0)?;
        }
        candle::norm(x, &weight, self.bias.as_ref(), self.eps)
    }
}
