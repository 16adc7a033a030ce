//! The decoder: embedded tokens, blocks, a head; one for all families.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::Rounding;

use super::block::{self, Block, PassState};
use super::cache::Cache;
use super::config::{Config, Positions};
use super::head::Head;
use super::load_options::Precision;
use super::logit_rows::LogitRows;
use super::norm::Norm;
use super::source::Source;
use crate::error::{Error, Hint, Result};
use crate::mix::{Pass, Weight};
use crate::ops;

/// Which rows of a batch reach the head.
#[derive(Debug, Clone, Copy)]
pub enum Logits<'a> {
    /// Every token.
    All,
    /// The tokens at these rows, in this order.
    Rows(&'a [u32]),
}

/// A decoder, frozen or with all its weights as variables.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(super) config: Config,
    pub(super) tokens: Weight,
    /// Learned positions `[n, d]`.
    pub(super) positions: Option<Tensor>,
    pub(super) blocks: Vec<Arc<Block>>,
    head: Head,
    /// The device on which candle's operations compute; `None` for the CPU kernels.
    device: Option<Device>,
}

impl Decoder {
    /// Builds a decoder whose tensors are the variables `vars`, named and shaped as
    /// [`Config::tensors`] says, all on one device. With [`Precision::Bf16`] products round their
    /// factors to bf16 (TF32 on a GPU), forward and backward; weights, sums and gradients stay f32.
    ///
    /// # Errors
    /// When a variable is missing or has another shape than `config` says; for
    /// [`Precision::Int8`], whose weights cannot be trained.
    pub fn trainable(
        config: Config,
        vars: &BTreeMap<String, Var>,
        precision: Precision,
    ) -> Result<Self> {
        let rounding = match precision {
            Precision::F32 => Rounding::F32,
            Precision::Bf16 => Rounding::Bf16,
            Precision::Int8 => {
                let text = "weights in 8 bits cannot be trained: precision must be f32 or bf16";
                return Err(Error::invalid(text));
            }
        };
        let device = vars.values().next().map(|var| var.device());
        let device = device.filter(|device| !device.is_cpu());
        if device.is_some() {
            // A GPU's own rounding of factors (TF32) is finer than bf16 and costs no more.
            candle_core::cuda::set_gemm_reduced_precision_f32(rounding == Rounding::Bf16);
        }
        Decoder::new(config, &Source::trained(vars, rounding, device))
    }

    /// Builds the decoder from its tensors.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub(crate) fn new(config: Config, source: &Source<'_>) -> Result<Self> {
        let names = config.modules;
        let tokens = source.matrix(&format!("{}.weight", config.in_root(names.tokens)), false)?;
        let positions = match config.positions {
            Positions::Learned => {
                let path = config.in_root(names.positions);
                Some(source.table(&format!("{path}.weight"))?)
            }
            Positions::Rotary(_) => None,
        };
        let blocks = (0..config.layers.len())
            .map(|i| Block::new(&config, i, source).map(Arc::new))
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
        let cap = config.head.soft_cap;
        Ok(Decoder {
            tokens,
            positions,
            blocks,
            head: Head {
                norm,
                weight,
                bias,
                cap,
            },
            device: source.device().cloned(),
            config,
        })
    }

    /// The decoder's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device of hidden states, logits and losses.
    pub fn device(&self) -> &Device {
        self.device.as_ref().unwrap_or(&Device::Cpu)
    }

    /// An empty cache for `sequences` sequences.
    pub fn cache(&self, sequences: usize) -> Cache {
        let width = self.config.attention.kv_heads * self.config.attention.dim;
        // Rounded where the products of many rows round them anyway.
        let rounded = self
            .blocks
            .iter()
            .all(|block| block.attention.heads.rounds());
        Cache::new(self.blocks.len(), sequences, (width, rounded))
    }

    /// The last hidden states `[t, d]` of packed `tokens`, before the final norm and the head.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a sequence is longer than the positions or a token is outside the
    /// vocabulary.
    pub fn hidden(
        &self,
        tokens: &[u32],
        cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        self.stream(tokens, None, cache, pass)
    }

    /// The last hidden states at `rows` only, `[rows, d]`: the last block computes no others.
    ///
    /// # Errors
    /// As [`Decoder::hidden`], and when there is no such row.
    pub fn hidden_at(
        &self,
        tokens: &[u32],
        rows: &[u32],
        cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        if rows.iter().any(|&row| row as usize >= tokens.len()) {
            return Err(Error::invalid("a requested row is outside the batch"));
        }
        if pass.probe.is_some() || self.device.is_some() {
            // Who watches sees every decision; a GPU computes whole rectangles anyway.
            let rows = Tensor::from_slice(rows, rows.len(), self.device())?;
            return ops::rows(&self.stream(tokens, None, cache, pass)?, &rows);
        }
        let wanted = Arc::new(LogitRows::new(rows, pass.seq_lens));
        let x = self.stream(tokens, Some(&wanted), cache, pass)?;
        Ok(match wanted.places(rows) {
            Some(places) => {
                let places = Tensor::from_vec(places, rows.len(), &Device::Cpu)?;
                ops::rows(&x, &places)?
            }
            None => x,
        })
    }

    fn stream(
        &self,
        tokens: &[u32],
        wanted: Option<&Arc<LogitRows>>,
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let positions = pass.seq_lens.positions();
        self.check(tokens, &positions, pass)?;
        let past = pass.seq_lens.past();
        let continues = match &cache {
            Some(cache) => *cache.lens() == **past,
            None => past.iter().all(|&tokens| tokens == 0),
        };
        if !continues {
            return Err(Error::Mismatch(
                "the sequences continue others than those in the cache".into(),
            ));
        }
        if let Some(device) = &self.device {
            return self.composed(device, (tokens, &positions), cache, pass);
        }
        let mut x = self.embed(tokens, &positions)?;
        let angles = match &self.config.positions {
            Positions::Rotary(rope) => Some(Arc::new(rope.angles(pass.seq_lens))),
            Positions::Learned => None,
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
            let wanted = wanted.filter(|_| last);
            let cache = cache.as_deref_mut();
            x = block::run((layer, block), &x, cache, (pass, &held), wanted)?;
        }
        if let Some(cache) = cache {
            cache.advance(pass.seq_lens.lens());
        }
        Ok(x)
    }

    /// The stream `[t, d]` before the first block.
    fn embed(&self, tokens: &[u32], positions: &[u32]) -> Result<Tensor> {
        let t = tokens.len();
        let index = |ids: &[u32]| Tensor::from_slice(ids, t, &Device::Cpu);
        let mut x = match &self.tokens {
            Weight::Frozen(packed) => {
                let mut rows = vec![0.0; t * self.config.hidden_size];
                packed.rows(tokens, &mut rows);
                Tensor::from_vec(rows, (t, self.config.hidden_size), &Device::Cpu)?
            }
            Weight::Plain(table, _) => ops::rows(table, &index(tokens)?)?,
        };
        if self.config.embedding_scale != 1.0 {
            x = (x * f64::from(self.config.embedding_scale))?;
        }
        Ok(match &self.positions {
            Some(table) => x.add(&ops::rows(table, &index(positions)?)?)?,
            None => x,
        })
    }

    /// Next-token logits `[n, v]` of the wanted rows of `hidden` `[t, d]`.
    ///
    /// # Errors
    /// When a row is outside `hidden`.
    pub fn logits(&self, hidden: &Tensor, which: Logits<'_>) -> Result<Tensor> {
        let own = match which {
            Logits::All => hidden.clone(),
            Logits::Rows(rows) => {
                let rows = Tensor::from_slice(rows, rows.len(), self.device())?;
                ops::rows(hidden, &rows)?
            }
        };
        match &self.device {
            Some(_) => self.head.composed(&own),
            None => self.head.logits(&own),
        }
    }

    /// Cross-entropy `[n]` of the tokens `ids` after the hidden states `[n, d]`, differentiable;
    /// by the kernels, the logits are never whole in memory.
    ///
    /// # Errors
    /// When there are not as many ids as rows, or an id is outside the vocabulary.
    pub fn losses(&self, hidden: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
        self.head.check(hidden, ids)?;
        match &self.device {
            Some(_) => ops::candle::cross_entropy(&self.head.composed(hidden)?, ids),
            None => self.head.losses(hidden, ids),
        }
    }

    fn check(&self, tokens: &[u32], positions: &[u32], pass: &Pass<'_>) -> Result<()> {
        let Config {
            vocab_size,
            max_position_embeddings: longest,
            ..
        } = self.config;
        if tokens.len() != pass.seq_lens.tokens() || tokens.is_empty() {
            return Err(Error::invalid(
                "a batch must have as many tokens as its seq_lens, and at least one",
            ));
        }
        pass.check_routes()?;
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::invalid(format!(
                "token {id} is outside the {vocab_size} known"
            )));
        }
        if positions.iter().any(|&p| p as usize >= longest) {
            return Err(Error::invalid(format!(
                "a sequence is longer than the {longest} positions of this base"
            ))
            .hint(Hint::Lower("max_input"))
            .hint(Hint::Lower("max_new")));
        }
        Ok(())
    }
}
