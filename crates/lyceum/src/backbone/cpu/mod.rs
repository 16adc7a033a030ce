//! The decoder by the CPU kernels, differentiable: forward and backward passes over slices.

mod attention;
mod block;
mod cache;
mod head;
mod logit_rows;
mod mlp;
mod norm;
mod source;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use self::attention::BlockArgs;
use self::block::{Block, PassState};
use self::head::Head;
use self::logit_rows::LogitRows;
use self::norm::Norm;
use super::config::{Config, Positions, Rope};
use crate::error::Result;
use crate::mix::{Pass, Weight};
use crate::ops;

pub(super) use cache::Cache;
pub(super) use source::Source;

/// A decoder whose weights are prepared for the kernels, or variables in the processor's memory.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    tokens: Weight,
    embedding_scale: f32,
    place: Place,
    blocks: Vec<Arc<Block>>,
    head: Head,
}

/// Position encodings with their parameters.
#[derive(Debug, Clone)]
enum Place {
    /// Learned vectors `[n, d]`.
    Learned(Tensor),
    Rotary(Rope),
}

impl Decoder {
    pub(super) fn new(config: &Config, source: &Source<'_>) -> Result<Self> {
        let names = config.modules;
        let tokens = source.matrix(&format!("{}.weight", config.in_root(names.tokens)), false)?;
        let place = match &config.positions {
            Positions::Learned => {
                let path = config.in_root(names.positions);
                Place::Learned(source.table(&format!("{path}.weight"))?)
            }
            Positions::Rotary(rope) => Place::Rotary(rope.clone()),
        };
        let blocks = (0..config.layers.len())
            .map(|i| Block::new(config, i, source).map(Arc::new))
            .collect::<Result<_>>()?;
        let norm = Norm::new(source, &config.in_root(names.norm), config.norm)?;
        let weight = match config.head.tied {
            true => tokens.clone(),
            false => source.matrix(&format!("{}.weight", names.head), false)?,
        };
        let bias = match config.head.bias {
            true => Some(source.vector(&format!("{}.bias", names.head))?),
            false => None,
        };
        Ok(Decoder {
            tokens,
            embedding_scale: config.embedding_scale,
            place,
            blocks,
            head: Head {
                norm,
                weight,
                bias,
                cap: config.head.soft_cap,
            },
        })
    }

    /// An empty cache for `sequences` sequences, of keys of `width` values.
    pub(super) fn cache(&self, sequences: usize, width: usize) -> Cache {
        // Rounded where the products of many rows round them anyway.
        let rounded = self
            .blocks
            .iter()
            .all(|block| block.attention.heads.rounds());
        Cache::new(self.blocks.len(), sequences, width, rounded)
    }

    /// The last hidden states `[t, d]` of packed `tokens`; of `rows` only, where they are given,
    /// `[rows, d]`: the last block computes no others.
    pub(super) fn hidden(
        &self,
        tokens: &[u32],
        rows: Option<&[u32]>,
        cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        // Who watches sees every decision.
        let Some(rows) = rows.filter(|_| pass.probe.is_none()) else {
            let x = self.stream(tokens, None, cache, pass)?;
            return match rows {
                Some(rows) => ops::rows(&x, &index(rows)?),
                None => Ok(x),
            };
        };
        let wanted = Arc::new(LogitRows::new(rows, pass.seq_lens));
        let x = self.stream(tokens, Some(&wanted), cache, pass)?;
        match wanted.places(rows) {
            Some(places) => ops::rows(&x, &index(&places)?),
            None => Ok(x),
        }
    }

    fn stream(
        &self,
        tokens: &[u32],
        wanted: Option<&Arc<LogitRows>>,
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let mut x = self.embed(tokens, pass)?;
        let angles = match &self.place {
            Place::Rotary(rope) => Some(Arc::new(rope.angles(pass.seq_lens))),
            Place::Learned(_) => None,
        };
        let held = Arc::new(PassState {
            seq_lens: pass.seq_lens.clone(),
            tasks: pass.tasks.to_vec(),
            routes: { pass.routes.iter() }
                .map(|route| (route.sequences.clone(), route.mixture.clone()))
                .collect(),
            angles,
            recompute: pass.recompute,
        });
        for (layer, block) in self.blocks.iter().enumerate() {
            let last = layer + 1 == self.blocks.len();
            let args = BlockArgs {
                pass,
                angles: held.angles.as_ref(),
                wanted: wanted.filter(|_| last),
            };
            x = block::run(block, &x, cache.as_deref_mut(), &args, &held)?;
        }
        Ok(x)
    }

    /// The stream `[t, d]` before the first block.
    fn embed(&self, tokens: &[u32], pass: &Pass<'_>) -> Result<Tensor> {
        let mut x = match &self.tokens {
            Weight::Frozen(packed) => {
                let d = packed.n_in();
                let mut rows = vec![0.0; tokens.len() * d];
                packed.rows(tokens, &mut rows);
                Tensor::from_vec(rows, (tokens.len(), d), &Device::Cpu)?
            }
            Weight::Trained(table, _) => ops::rows(table, &index(tokens)?)?,
        };
        if self.embedding_scale != 1.0 {
            x = (x * f64::from(self.embedding_scale))?;
        }
        Ok(match &self.place {
            Place::Learned(table) => {
                x.add(&ops::rows(table, &index(&pass.seq_lens.positions())?)?)?
            }
            Place::Rotary(_) => x,
        })
    }

    /// Logits `[n, v]` of hidden states `[n, d]`.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.logits(hidden)
    }

    /// Cross-entropy `[n]` of the tokens `ids` after hidden states `[n, d]`; the logits are never
    /// whole in memory.
    pub(super) fn losses(&self, hidden: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
        self.head.losses(hidden, ids)
    }
}

fn index(ids: &[u32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(ids, ids.len(), &Device::Cpu)?)
}
