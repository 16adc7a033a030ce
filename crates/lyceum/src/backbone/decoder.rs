//! The decoder: embedded tokens, blocks, a head; one for all families, on one of two backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use lyceum_kernels::gemm::Rounding;

use super::cache::{Cache, Layers};
use super::checkpoint::Weights;
use super::config::Config;
use super::load_options::{Backend, LoadOptions, Precision};
use super::{candle, cpu};
use crate::error::{Error, Hint, Result};
use crate::mix::Pass;
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
    config: Config,
    own: Own,
}

/// The weights, as the backend has them that computes with them.
#[derive(Debug, Clone)]
enum Own {
    Cpu(cpu::Decoder),
    Candle(candle::Decoder),
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
        let backend = device.map_or(Backend::Cpu, Backend::of);
        if let Backend::Candle(_) = backend {
            // A GPU's own rounding of factors (TF32) is finer than bf16 and costs no more.
            candle_core::cuda::set_gemm_reduced_precision_f32(rounding == Rounding::Bf16);
        }
        Decoder::trained(config, vars, rounding, backend)
    }

    /// Builds a decoder of variables, which `backend` computes with.
    pub(super) fn trained(
        config: Config,
        vars: &BTreeMap<String, Var>,
        rounding: Rounding,
        backend: Backend,
    ) -> Result<Self> {
        let own = match backend {
            Backend::Cpu => {
                let source = cpu::Source::Vars(vars, rounding);
                Own::Cpu(cpu::Decoder::new(&config, &source)?)
            }
            Backend::Candle(device) => {
                let source = candle::Source::Vars(vars);
                Own::Candle(candle::Decoder::new(&config, &source, device)?)
            }
        };
        Ok(Decoder { config, own })
    }

    /// Builds a frozen decoder.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub(super) fn frozen(
        config: Config,
        weights: &Weights<'_>,
        LoadOptions { precision, backend }: LoadOptions,
    ) -> Result<Self> {
        let own = match backend {
            Backend::Cpu => {
                let source = cpu::Source::Weights(weights, precision);
                Own::Cpu(cpu::Decoder::new(&config, &source)?)
            }
            Backend::Candle(device) => {
                let source = candle::Source::Weights {
                    weights,
                    precision,
                    device: &device,
                };
                Own::Candle(candle::Decoder::new(&config, &source, device.clone())?)
            }
        };
        Ok(Decoder { config, own })
    }

    /// The decoder's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device of hidden states, logits and losses.
    pub fn device(&self) -> &Device {
        match &self.own {
            Own::Cpu(_) => &Device::Cpu,
            Own::Candle(own) => own.device(),
        }
    }

    /// An empty cache for `sequences` sequences.
    pub fn cache(&self, sequences: usize) -> Cache {
        let width = self.config.attention.kv_heads * self.config.attention.dim;
        let layers = match &self.own {
            Own::Cpu(own) => Layers::Cpu(own.cache(sequences, width)),
            Own::Candle(own) => Layers::Candle(own.cache(sequences)),
        };
        Cache::new(sequences, layers)
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

    /// The last hidden states at `rows` only, `[rows, d]`: the kernels compute no others in the
    /// last block.
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
        self.stream(tokens, Some(rows), cache, pass)
    }

    fn stream(
        &self,
        tokens: &[u32],
        rows: Option<&[u32]>,
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        self.check(tokens, pass)?;
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
        let held = cache.as_deref_mut();
        let hidden = match &self.own {
            Own::Cpu(own) => {
                let cache = held.map(Cache::cpu).transpose()?;
                own.hidden(tokens, rows, cache, pass)?
            }
            Own::Candle(own) => {
                let cache = held.map(Cache::candle).transpose()?;
                own.hidden(tokens, rows, cache, pass)?
            }
        };
        if let Some(cache) = cache {
            cache.advance(pass.seq_lens.lens());
        }
        Ok(hidden)
    }

    /// Next-token logits `[n, v]` of the wanted rows of `hidden` `[t, d]`.
    ///
    /// # Errors
    /// When a row is outside `hidden`.
    pub fn logits(&self, hidden: &Tensor, which: Logits<'_>) -> Result<Tensor> {
        let wanted = match which {
            Logits::All => hidden.clone(),
            Logits::Rows(rows) => {
                let rows = Tensor::from_slice(rows, rows.len(), self.device())?;
                ops::rows(hidden, &rows)?
            }
        };
        match &self.own {
            Own::Cpu(own) => own.logits(&wanted),
            Own::Candle(own) => own.logits(&wanted),
        }
    }

    /// Cross-entropy `[n]` of the tokens `ids` after the hidden states `[n, d]`, differentiable;
    /// by the kernels, the logits are never whole in memory.
    ///
    /// # Errors
    /// When there are not as many ids as rows, or an id is outside the vocabulary.
    pub fn losses(&self, hidden: &Tensor, ids: &Arc<[u32]>) -> Result<Tensor> {
        let (n, v) = (hidden.dims2()?.0, self.config.vocab_size);
        if n != ids.len() || ids.iter().any(|&id| id as usize >= v) {
            return Err(Error::Mismatch(format!(
                "{} target ids for {n} rows over a vocabulary of {v}",
                ids.len()
            )));
        }
        match &self.own {
            Own::Cpu(own) => own.losses(hidden, ids),
            Own::Candle(own) => own.losses(hidden, ids),
        }
    }

    fn check(&self, tokens: &[u32], pass: &Pass<'_>) -> Result<()> {
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
        let (lens, past) = (pass.seq_lens.lens(), pass.seq_lens.past());
        let beyond = |(len, past): (&usize, &usize)| *len > 0 && past + len > longest;
        if lens.iter().zip(past.iter()).any(beyond) {
            return Err(Error::invalid(format!(
                "a sequence is longer than the {longest} positions of this base"
            ))
            .hint(Hint::Lower("max_input"))
            .hint(Hint::Lower("max_new")));
        }
        Ok(())
    }
}
