//! The decoder in candle's operations, for devices that the kernels do not compute on, a GPU.
//!
//! Rows stay packed, as everywhere; only attention lays them out as a rectangle of sequences,
//! because a GPU's time goes into starting operations and one product per sequence would start
//! many.

mod batch;
mod block;
mod cache;
mod source;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use self::batch::Batch;
use self::block::{Block, Norm};
use super::config::{Config, Positions, Rope};
use crate::error::{Error, Hint, Result};
use crate::mix::Pass;
use crate::ops::{self, candle};

pub(super) use cache::Cache;
pub(super) use source::Source;

/// A decoder whose weights are tensors on one device.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    device: Device,
    tokens: Tensor,
    embedding_scale: f32,
    place: Place,
    blocks: Vec<Arc<Block>>,
    /// Heads of keys.
    kv_heads: usize,
    /// The final norm.
    norm: Norm,
    /// The head's matrix `[v, d]`, often the token embedding.
    head: Tensor,
    bias: Option<Tensor>,
    /// Logits become `cap tanh(logit / cap)`.
    cap: Option<f64>,
}

/// Position encodings with their parameters.
#[derive(Debug, Clone)]
enum Place {
    /// Learned vectors `[n, d]`.
    Learned(Tensor),
    Rotary(Rope),
}

impl Decoder {
    pub(super) fn new(config: &Config, source: &Source<'_>, device: Device) -> Result<Self> {
        let names = config.modules;
        let tokens = source.matrix(&format!("{}.weight", config.in_root(names.tokens)), false)?;
        let place = match &config.positions {
            Positions::Learned => {
                let path = config.in_root(names.positions);
                Place::Learned(source.tensor(&format!("{path}.weight"))?)
            }
            Positions::Rotary(rope) => Place::Rotary(rope.clone()),
        };
        let blocks = (0..config.layers.len())
            .map(|i| Block::new(config, i, source).map(Arc::new))
            .collect::<Result<_>>()?;
        let head = match config.head.tied {
            true => tokens.clone(),
            false => source.matrix(&format!("{}.weight", names.head), false)?,
        };
        let bias = match config.head.bias {
            true => Some(source.tensor(&format!("{}.bias", names.head))?),
            false => None,
        };
        Ok(Decoder {
            device,
            tokens,
            embedding_scale: config.embedding_scale,
            place,
            blocks,
            kv_heads: config.attention.kv_heads,
            norm: Norm::new(source, &config.in_root(names.norm), config.norm)?,
            head,
            bias,
            cap: config.head.soft_cap,
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for `sequences` sequences.
    pub(super) fn cache(&self, sequences: usize) -> Cache {
        Cache::new(self.blocks.len(), self.kv_heads, sequences)
    }

    /// The last hidden states `[t, d]` of packed `tokens`; of `rows` only, where they are given,
    /// `[rows, d]`.
    pub(super) fn hidden(
        &self,
        tokens: &[u32],
        rows: Option<&[u32]>,
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        if pass.recompute {
            let text = "activation recomputation (`recompute`) is supported on the CPU only";
            return Err(Error::invalid(text).hint(Hint::Omit("recompute")));
        }
        if let Some(cache) = &mut cache {
            cache.arrange()?;
        }
        let mut x = ops::rows(&self.tokens, &self.index(tokens)?)?.to_dtype(DType::F32)?;
        if self.embedding_scale != 1.0 {
            x = (x * f64::from(self.embedding_scale))?;
        }
        let rope = match &self.place {
            Place::Learned(table) => {
                let positions = self.index(&pass.seq_lens.positions())?;
                x = (x + ops::rows(table, &positions)?)?;
                None
            }
            Place::Rotary(rope) => Some(rope),
        };
        let mut batch = Batch::new(pass, rope, &self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(layer, &x, cache.as_deref_mut(), &mut batch)?;
        }
        match rows {
            Some(rows) => ops::rows(&x, &self.index(rows)?),
            None => Ok(x),
        }
    }

    fn index(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(ids, ids.len(), &self.device)?)
    }

    /// Logits `[n, v]` of hidden states `[n, d]`.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let mut logits = candle::product(&self.norm.forward(hidden)?, &self.head)?;
        if let Some(bias) = &self.bias {
            logits = logits.broadcast_add(bias)?;
        }
        candle::soft_cap(logits, self.cap)
    }

    /// Cross-entropy `[n]` of the tokens `ids` after hidden states `[n, d]`.
    pub(super) fn losses(&self, hidden: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
        candle::cross_entropy(&self.logits(hidden)?, ids)
    }
}
