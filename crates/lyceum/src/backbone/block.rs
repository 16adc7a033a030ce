//! One block: attention and MLP, joined to the stream as the family does.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::activation::Activation;
use lyceum_kernels::attention::Heads;
use lyceum_kernels::rope::Angles;

use super::cache::Cache;
use super::config::{self, Config, Linear, MlpShape, NormKind, Qkv, Residual};
use super::load::Source;
use crate::error::{Error, Result};
use crate::mix::{Pass, RoutedLinear, Vector};
use crate::name::Site;
use crate::ops;

/// A norm with its parameters.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Vector,
    bias: Option<Vector>,
    eps: f32,
    plus_one: bool,
}

impl Norm {
    pub(super) fn new(source: &mut Source<'_>, path: &str, is: config::Norm) -> Result<Self> {
        let mut weight = source.vector(&format!("{path}.weight"))?;
        if let (true, Vector::Frozen(values)) = (is.plus_one, &weight) {
            weight = Vector::Frozen(values.iter().map(|w| 1.0 + w).collect());
        }
        let bias = match is.kind {
            NormKind::Layer => Some(source.vector(&format!("{path}.bias"))?),
            NormKind::Rms => None,
        };
        Ok(Norm {
            weight,
            bias,
            eps: is.eps as f32,
            plus_one: is.plus_one,
        })
    }

    /// Over rows `[n, d]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match (&self.weight, &self.bias) {
            (Vector::Frozen(w), Some(Vector::Frozen(b))) => ops::frozen_norm(x, w, b, self.eps)?,
            (Vector::Frozen(w), None) => ops::frozen_rms_norm(x, w, self.eps)?,
            (w, Some(b)) => ops::trained_norm(x, &w.tensor()?, &b.tensor()?, self.eps)?,
            (w, None) => {
                let w = match self.plus_one {
                    true => (w.tensor()? + 1.0)?,
                    false => w.tensor()?,
                };
                ops::rms_norm(x, &w, self.eps)?
            }
        })
    }

    /// Over every head of `x` `[t, heads * dim]`.
    fn per_head(&self, x: &Tensor, dim: usize) -> Result<Tensor> {
        let (t, width) = x.dims2()?;
        let rows = x.reshape((t * width / dim, dim))?;
        Ok(self.forward(&rows)?.reshape((t, width))?)
    }
}

/// Attention with its matrices.
#[derive(Debug, Clone)]
struct Attention {
    /// q, k and v, or one for all.
    qkv: Vec<RoutedLinear>,
    split: Qkv,
    /// Norms of the heads of q and k.
    norms: Option<(Norm, Norm)>,
    heads: Heads,
    out: RoutedLinear,
}

/// What a forward pass knows besides the stream.
pub(super) struct Step<'a> {
    pub(super) pass: &'a Pass<'a>,
    /// The turns of every token; none with learned positions.
    pub(super) angles: Option<Arc<Angles>>,
}

impl Attention {
    /// q, k and v `[t, heads * dim]` of `x` `[t, d]`.
    fn qkv(&self, x: &Tensor, pass: &Pass<'_>) -> Result<(Tensor, Tensor, Tensor)> {
        let Heads { heads, dim, .. } = self.heads;
        let (q, kv) = (self.heads.width(), self.heads.kv_width());
        match (self.split, self.qkv.as_slice()) {
            (Qkv::Separate, [q, k, v]) => Ok((
                q.forward(x, pass)?,
                k.forward(x, pass)?,
                v.forward(x, pass)?,
            )),
            (Qkv::Fused, [all]) => {
                let all = all.forward(x, pass)?;
                let part = |from, width| all.narrow(1, from, width)?.contiguous();
                Ok((part(0, q)?, part(q, kv)?, part(q + kv, kv)?))
            }
            (Qkv::Interleaved, [all]) => {
                let t = x.dims2()?.0;
                let all = all.forward(x, pass)?.reshape((t, heads, 3, dim))?;
                let part = |i| {
                    let part = all.narrow(2, i, 1)?.contiguous()?;
                    part.reshape((t, heads * dim))
                };
                Ok((part(0)?, part(1)?, part(2)?))
            }
            _ => Err(Error::invalid("attention has the wrong number of matrices")),
        }
    }

    fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        step: &Step<'_>,
    ) -> Result<Tensor> {
        let (mut q, mut k, v) = self.qkv(x, step.pass)?;
        let Heads {
            heads,
            kv_heads,
            dim,
            ..
        } = self.heads;
        if let Some((q_norm, k_norm)) = &self.norms {
            q = q_norm.per_head(&q, dim)?;
            k = k_norm.per_head(&k, dim)?;
        }
        if let Some(angles) = &step.angles {
            q = ops::rotate(&q, angles, (heads, dim))?;
            k = ops::rotate(&k, angles, (kv_heads, dim))?;
        }
        let lens = step.pass.segments.lens();
        let seen = match cache {
            Some(cache) => cache.attend(layer, (&q, &k, &v), lens, &self.heads)?,
            None => ops::attend(&q, &k, &v, lens, self.heads.clone())?,
        };
        self.out.forward(&seen, step.pass)
    }
}

/// The MLP with its matrices.
#[derive(Debug, Clone)]
struct Mlp {
    /// Gate and up, one for both, or up alone.
    up: Vec<RoutedLinear>,
    down: RoutedLinear,
    shape: MlpShape,
    activation: Activation,
}

impl Mlp {
    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let inner = match (self.shape, self.up.as_slice()) {
            (MlpShape::Plain, [up]) => ops::activate(&up.forward(x, pass)?, self.activation)?,
            (MlpShape::Gated, [gate, up]) => {
                let (gate, up) = (gate.forward(x, pass)?, up.forward(x, pass)?);
                ops::gate(&gate, &up, self.activation)?
            }
            (MlpShape::Fused, [both]) => {
                let both = both.forward(x, pass)?;
                let width = both.dims2()?.1 / 2;
                let half = |from| both.narrow(1, from, width)?.contiguous();
                ops::gate(&half(0)?, &half(width)?, self.activation)?
            }
            _ => return Err(Error::invalid("an MLP has the wrong number of matrices")),
        };
        self.down.forward(&inner, pass)
    }
}

/// One block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    residual: Residual,
    /// In the order of [`Config::norms`].
    norms: Vec<Norm>,
    attention: Attention,
    mlp: Mlp,
}

impl Block {
    /// Block `i` of `config`, which has one.
    pub(super) fn new(config: &Config, i: usize, source: &mut Source<'_>) -> Result<Self> {
        let norm = |source: &mut Source<'_>, module: &str| {
            Norm::new(source, &config.in_block(i, module), config.norm)
        };
        let norms = config.norms().into_iter();
        let norms = norms
            .map(|module| norm(source, module))
            .collect::<Result<_>>()?;
        let qk_norms = match (config.attention.qk_norm, config.modules.qk_norms) {
            (true, [q, k]) => Some((norm(source, q)?, norm(source, k)?)),
            (true, _) => return Err(Error::invalid("this family has no norms of q and k")),
            (false, _) => None,
        };
        let mut linears = config.linears(i).into_iter().map(|linear| {
            let Linear { path, bias, .. } = linear;
            let weight = source.matrix(&format!("{path}.weight"), config.transposed)?;
            let bias = bias
                .then(|| source.vector(&format!("{path}.bias")))
                .transpose()?;
            Ok(RoutedLinear::new(Site::new(path), weight, bias))
        });
        let mut take = |n: usize| linears.by_ref().take(n).collect::<Result<Vec<_>>>();
        let short = || Error::invalid("a block has too few matrices");
        let qkv = take(config.modules.qkv.len())?;
        let out = take(1)?.pop().ok_or_else(short)?;
        let up = take(config.modules.up.len())?;
        let down = take(1)?.pop().ok_or_else(short)?;
        Ok(Block {
            residual: config.residual,
            norms,
            attention: Attention {
                qkv,
                split: config.attention.qkv,
                norms: qk_norms,
                heads: config.heads(&config.layers[i]),
                out,
            },
            mlp: Mlp {
                up,
                down,
                shape: config.mlp.shape,
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
        step: &Step<'_>,
    ) -> Result<Tensor> {
        let norm = |i: usize, x: &Tensor| match self.norms.get(i) {
            Some(norm) => norm.forward(x),
            None => Err(Error::invalid("a block has too few norms")),
        };
        let attend = |x: &Tensor| self.attention.forward(layer, x, cache, step);
        let mlp = |x: &Tensor| self.mlp.forward(x, step.pass);
        let seen = attend(&norm(0, x)?)?;
        Ok(match self.residual {
            Residual::Sequential => {
                let x = x.add(&seen)?;
                x.add(&mlp(&norm(1, &x)?)?)?
            }
            Residual::Parallel => x.add(&seen)?.add(&mlp(&norm(1, x)?)?)?,
            Residual::Shared => x.add(&seen)?.add(&mlp(&norm(0, x)?)?)?,
            Residual::Sandwich => {
                let x = x.add(&norm(2, &seen)?)?;
                x.add(&norm(3, &mlp(&norm(1, &x)?)?)?)?
            }
        })
    }
}
