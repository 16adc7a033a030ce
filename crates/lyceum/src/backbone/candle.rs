//! The decoder in candle's operations: the same blocks where the kernels do not run, on a GPU.
//!
//! Rows stay packed, as everywhere; only attention lays them out as a rectangle of sequences,
//! because a GPU's time goes into starting operations and one product per sequence would start
//! many.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use super::attention::Attention;
use super::block::Block;
use super::cache::Cache;
use super::config::layout::{Norms, Qkv, Up};
use super::config::{Config, Positions};
use super::decoder::Decoder;
use super::mlp::Mlp;
use super::norm::Norm;
use crate::error::{Error, Hint, Result};
use crate::mix::{Pass, SeqLens};
use crate::ops::{self, candle};

/// The inputs that all blocks of a pass share.
struct Laid<'a> {
    pass: &'a Pass<'a>,
    /// Cosines and sines `[t, 1, half]`; none with learned positions.
    angles: Option<(Tensor, Tensor)>,
    queries: Rectangle,
    keys: Rectangle,
    /// By window: a large negative score for what a position does not see, else 0:
    /// `[n, 1, queries, keys]`.
    masks: BTreeMap<Option<usize>, Tensor>,
}

/// Packed rows of several sequences as a rectangle `[n, longest]`.
struct Rectangle {
    n: usize,
    longest: usize,
    /// Indices to and from the padded layout; `None` when all sequences have one length.
    ragged: Option<Ragged>,
}

struct Ragged {
    /// The row at each place of the rectangle; at a place without one, row 0.
    ids: Tensor,
    /// 1 where there is a row, else 0: `[n * longest, 1]`.
    real: Tensor,
    /// The place of each row.
    places: Tensor,
}

impl Rectangle {
    fn new(lens: &[usize], device: &Device) -> Result<Self> {
        let (n, longest) = (lens.len(), lens.iter().copied().max().unwrap_or(0));
        let even = lens.iter().all(|len| *len == longest);
        let lay = || -> Result<Ragged> {
            let size = n * longest;
            let (mut ids, mut real, mut places) = (vec![0u32; size], vec![0f32; size], Vec::new());
            for (i, &len) in lens.iter().enumerate() {
                for place in i * longest..i * longest + len {
                    (ids[place], real[place]) = (places.len() as u32, 1.0);
                    places.push(place as u32);
                }
            }
            let t = places.len();
            Ok(Ragged {
                ids: Tensor::from_vec(ids, size, device)?,
                real: Tensor::from_vec(real, (size, 1), device)?,
                places: Tensor::from_vec(places, t, device)?,
            })
        };
        Ok(Rectangle {
            n,
            longest,
            ragged: (!even).then(lay).transpose()?,
        })
    }

    /// Rows `[t, w]` as a rectangle `[n * longest, w]`.
    fn lay(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ragged {
            None => Ok(x.clone()),
            Some(Ragged { ids, places, .. }) => candle::spread_out(x, ids, places),
        }
    }

    /// The opposite.
    fn pack(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ragged {
            None => Ok(x.clone()),
            Some(Ragged { ids, real, places }) => candle::gather(x, (ids, real), places),
        }
    }
}

impl<'a> Laid<'a> {
    fn new(config: &Config, pass: &'a Pass<'a>, device: &Device) -> Result<Self> {
        let seq_lens = pass.seq_lens;
        let (lens, past) = (seq_lens.lens(), seq_lens.past());
        let held: Vec<usize> = lens.iter().zip(past.iter()).map(|(n, p)| n + p).collect();
        let queries = Rectangle::new(lens, device)?;
        let keys = Rectangle::new(&held, device)?;
        let angles = match &config.positions {
            Positions::Rotary(rope) => {
                let angles = rope.angles(seq_lens);
                let shape = (seq_lens.tokens(), 1, angles.half);
                let cos = Tensor::from_vec(angles.cos, shape, device)?;
                Some((cos, Tensor::from_vec(angles.sin, shape, device)?))
            }
            Positions::Learned => None,
        };
        let windows: BTreeSet<_> = config.layers.iter().map(|layer| layer.window).collect();
        let mask = |window| {
            let scores = mask(seq_lens, (queries.longest, keys.longest), window);
            let shape = (queries.n, 1, queries.longest, keys.longest);
            Ok((window, Tensor::from_vec(scores, shape, device)?))
        };
        let masks = windows.into_iter().map(mask).collect::<Result<_>>()?;
        Ok(Laid {
            pass,
            angles,
            queries,
            keys,
            masks,
        })
    }
}

/// The scores `[n, queries, keys]` that take away what a token does not see.
fn mask(seq_lens: &SeqLens, (queries, keys): (usize, usize), window: Option<usize>) -> Vec<f32> {
    let sequences = seq_lens.lens().iter().zip(seq_lens.past().iter());
    let mut all = Vec::with_capacity(seq_lens.lens().len() * queries * keys);
    for (_, past) in sequences {
        for row in 0..queries {
            let at = past + row;
            let seen = |key: usize| key <= at && window.is_none_or(|window| at - key < window);
            all.extend((0..keys).map(|key| if seen(key) { 0.0 } else { candle::UNSEEN }));
        }
    }
    all
}

impl Decoder {
    /// [`Decoder::hidden`] on `device`.
    pub(super) fn composed(
        &self,
        device: &Device,
        (tokens, positions): (&[u32], &[u32]),
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        if pass.recompute {
            let text = "activation recomputation (`recompute`) is supported on the CPU only";
            return Err(Error::invalid(text).hint(Hint::Omit("recompute")));
        }
        let index = |ids: &[u32]| Tensor::from_slice(ids, ids.len(), device);
        let mut x = ops::rows(self.tokens.tensor()?, &index(tokens)?)?.to_dtype(DType::F32)?;
        if self.config.embedding_scale != 1.0 {
            x = (x * f64::from(self.config.embedding_scale))?;
        }
        if let Some(table) = &self.positions {
            x = (x + ops::rows(table, &index(positions)?)?)?;
        }
        let laid = Laid::new(&self.config, pass, device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.composed(layer, &x, cache.as_deref_mut(), &laid)?;
        }
        if let Some(cache) = cache {
            cache.advance(pass.seq_lens.lens());
        }
        Ok(x)
    }
}

impl Block {
    /// The stream `[t, d]` after this block, which is number `layer`.
    fn composed(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        laid: &Laid<'_>,
    ) -> Result<Tensor> {
        let h = self.norms.attention().composed(x)?;
        let attended = self.attention.composed(layer, &h, cache, laid)?;
        let made = |h: &Tensor| self.mlp.composed(h, laid.pass);
        Ok(match &self.norms {
            Norms::Sequential { mlp, .. } => {
                let x = (x + attended)?;
                (&x + made(&mlp.composed(&x)?)?)?
            }
            Norms::Sandwich {
                mlp,
                after_attention,
                after_mlp,
                ..
            } => {
                let x = (x + after_attention.composed(&attended)?)?;
                let made = made(&mlp.composed(&x)?)?;
                (&x + after_mlp.composed(&made)?)?
            }
            Norms::Parallel { mlp, .. } => ((x + attended)? + made(&mlp.composed(x)?)?)?,
            Norms::Shared(_) => ((x + attended)? + made(&h)?)?,
        })
    }
}

impl Attention {
    fn composed(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        laid: &Laid<'_>,
    ) -> Result<Tensor> {
        let shape = &self.heads;
        let (dim, kv, groups) = (
            shape.dim,
            shape.kv_heads,
            shape.heads / shape.kv_heads.max(1),
        );
        let (q, k, v) = self.projected(x, laid.pass)?;
        let norm = |i: usize| self.norms.as_ref().map(|norms| &norms[i]);
        let q = rotated(&q, norm(0), dim, laid)?;
        let mut k = rotated(&k, norm(1), dim, laid)?;
        let mut v = v.contiguous()?;
        if let Some(cache) = cache {
            (k, v) = cache.append_on(layer, (&k, &v), laid.pass.seq_lens.lens())?;
        }
        let (n, rows, keys) = (laid.queries.n, laid.queries.longest, laid.keys.longest);
        // Heads that share keys come one after another, as more rows of one product.
        let q = laid.queries.lay(&q)?.reshape((n, rows, kv, groups, dim))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((n * kv, groups * rows, dim))?;
        let side = |x: &Tensor| -> Result<Tensor> {
            let x = laid.keys.lay(x)?.reshape((n, keys, kv, dim))?;
            Ok(x.transpose(1, 2)?
                .contiguous()?
                .reshape((n * kv, keys, dim))?)
        };
        let (k, v) = (side(&k)?, side(&v)?);
        let scores = (q.matmul(&k.t()?)? * f64::from(shape.scale))?;
        let scores = candle::soft_cap(scores, shape.soft_cap.map(f64::from))?;
        let scores = scores.reshape((n, kv * groups, rows, keys))?;
        let mask = laid.masks.get(&shape.window);
        let mask = mask.ok_or_else(|| Error::invalid("a window without a mask"))?;
        let shares = candle::softmax(&scores.broadcast_add(mask)?)?;
        let seen = shares.reshape((n * kv, groups * rows, keys))?.matmul(&v)?;
        let seen = seen.reshape((n, kv, groups, rows, dim))?;
        let seen = seen.permute((0, 3, 1, 2, 4))?.contiguous()?;
        let seen = seen.reshape((n * rows, shape.width()))?;
        self.out.composed(&laid.queries.pack(&seen)?, laid.pass)
    }

    /// q, k and v `[t, heads * dim]`.
    fn projected(&self, x: &Tensor, pass: &Pass<'_>) -> Result<(Tensor, Tensor, Tensor)> {
        let (q, kv) = (self.heads.width(), self.heads.kv_width());
        match &self.qkv {
            Qkv::Separate([q, k, v]) => Ok((
                q.composed(x, pass)?,
                k.composed(x, pass)?,
                v.composed(x, pass)?,
            )),
            Qkv::Fused(all) => {
                let all = all.composed(x, pass)?;
                let part = |from, width| all.narrow(1, from, width);
                Ok((part(0, q)?, part(q, kv)?, part(q + kv, kv)?))
            }
            Qkv::Interleaved(all) => {
                let all = all.composed(x, pass)?;
                let (t, heads) = (all.dims2()?.0, self.heads.heads);
                let all = all.reshape((t, heads, 3, self.heads.dim))?;
                let part = |i| all.narrow(2, i, 1)?.contiguous()?.reshape((t, q));
                Ok((part(0)?, part(1)?, part(2)?))
            }
        }
    }
}

/// q or k `[t, heads * dim]` normed and rotated, where the family does so.
fn rotated(x: &Tensor, norm: Option<&Norm>, dim: usize, laid: &Laid<'_>) -> Result<Tensor> {
    let (t, width) = x.dims2()?;
    let mut x = x.contiguous()?.reshape((t, width / dim, dim))?;
    if let Some(norm) = norm {
        x = norm.composed(&x)?;
    }
    if let Some((cos, sin)) = &laid.angles {
        x = candle::rotate(&x, (cos, sin))?;
    }
    Ok(x.reshape((t, width))?)
}

impl Mlp {
    fn composed(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let inner = match &self.up {
            Up::Plain(up) => candle::activation(self.activation, &up.composed(x, pass)?)?,
            Up::Gated([gate, up]) => {
                let gate = candle::activation(self.activation, &gate.composed(x, pass)?)?;
                (gate * up.composed(x, pass)?)?
            }
            Up::Fused(both) => {
                let both = both.composed(x, pass)?;
                let width = both.dims2()?.1 / 2;
                let half = |i: usize| both.narrow(1, i * width, width)?.contiguous();
                (candle::activation(self.activation, &half(0)?)? * half(1)?)?
            }
        };
        self.down.composed(&inner, pass)
    }
}

impl Norm {
    /// [`Norm::forward`] over the last axis of a tensor on any device, differentiable.
    pub(super) fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let mut weight = self.weight.tensor()?.clone();
        if self.plus_one {
            weight = (weight + 1.0)?;
        }
        let bias = self.bias.as_ref().map(|bias| bias.tensor()).transpose()?;
        candle::norm(x, &weight, bias, f64::from(self.eps))
    }
}
