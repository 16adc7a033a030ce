//! The decoder: embeddings, blocks of attention and MLP, a tied head.
//!
//! GPT-Neo's particulars: layers alternate global and local attention, attention logits are not
//! scaled by `1/sqrt(d)`, q/k/v have no bias. Source: the checkpoints' own `config.json` and
//! Hugging Face's `modeling_gpt_neo`.

use candle_core::{Device, Tensor};
use lyceum_kernels::attention::Heads;

use super::cache::Cache;
use super::config::{Config, Span};
use super::load::Source;
use crate::error::{Error, Result};
use crate::mix::{Pass, RoutedLinear, Vector, Weight};
use crate::name::Site;
use crate::ops;

/// Which rows of a batch reach the head.
#[derive(Debug, Clone, Copy)]
pub enum Logits<'a> {
    /// Every token.
    All,
    /// The tokens at these rows, in this order.
    Rows(&'a [u32]),
}

#[derive(Debug, Clone)]
struct Norm {
    weight: Vector,
    bias: Vector,
    eps: f32,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match (&self.weight, &self.bias) {
            (Vector::Frozen(w), Vector::Frozen(b)) => ops::frozen_norm(x, w, b, self.eps)?,
            (w, b) => ops::trained_norm(x, &w.tensor()?, &b.tensor()?, self.eps)?,
        })
    }
}

#[derive(Debug, Clone)]
struct Block {
    attention_norm: Norm,
    q: RoutedLinear,
    k: RoutedLinear,
    v: RoutedLinear,
    out: RoutedLinear,
    heads: Heads,
    mlp_norm: Norm,
    fc: RoutedLinear,
    proj: RoutedLinear,
}

impl Block {
    fn forward(
        &self,
        layer: usize,
        x: &Tensor,
        cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let h = self.attention_norm.forward(x)?;
        let (q, k) = (self.q.forward(&h, pass)?, self.k.forward(&h, pass)?);
        let v = self.v.forward(&h, pass)?;
        let lens = pass.segments.lens();
        let seen = match cache {
            Some(cache) => cache.attend(layer, (&q, &k, &v), lens, &self.heads)?,
            None => ops::attend(&q, &k, &v, lens, self.heads.clone())?,
        };
        let x = x.add(&self.out.forward(&seen, pass)?)?;
        let h = self.mlp_norm.forward(&x)?;
        let h = ops::gelu_new(&self.fc.forward(&h, pass)?)?;
        Ok(x.add(&self.proj.forward(&h, pass)?)?)
    }
}

/// A decoder, frozen or with all its weights as variables.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: Config,
    tokens: Weight,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
}

impl Decoder {
    /// Builds the decoder from its tensors.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub(crate) fn new(config: Config, source: &mut Source<'_>) -> Result<Self> {
        let eps = config.layer_norm_epsilon as f32;
        let norm = |source: &mut Source<'_>, path: &str| -> Result<Norm> {
            let weight = source.vector(&format!("{path}.weight"))?;
            Ok(Norm {
                weight,
                bias: source.vector(&format!("{path}.bias"))?,
                eps,
            })
        };
        let linear = |source: &mut Source<'_>, path: String, bias: bool| -> Result<RoutedLinear> {
            let weight = source.matrix(&format!("{path}.weight"))?;
            let bias = bias
                .then(|| source.vector(&format!("{path}.bias")))
                .transpose()?;
            Ok(RoutedLinear::new(Site::new(path), weight, bias))
        };
        let mut blocks = Vec::with_capacity(config.num_layers);
        for (i, span) in config.spans().into_iter().enumerate() {
            let at = |path: &str| format!("transformer.h.{i}.{path}");
            let heads = Heads {
                heads: config.num_heads,
                dim: config.hidden_size / config.num_heads,
                scale: 1.0,
                window: (span == Span::Local).then_some(config.window_size),
            };
            blocks.push(Block {
                attention_norm: norm(source, &at("ln_1"))?,
                q: linear(source, at("attn.attention.q_proj"), false)?,
                k: linear(source, at("attn.attention.k_proj"), false)?,
                v: linear(source, at("attn.attention.v_proj"), false)?,
                out: linear(source, at("attn.attention.out_proj"), true)?,
                heads,
                mlp_norm: norm(source, &at("ln_2"))?,
                fc: linear(source, at("mlp.c_fc"), true)?,
                proj: linear(source, at("mlp.c_proj"), true)?,
            });
        }
        Ok(Decoder {
            tokens: source.matrix("transformer.wte.weight")?,
            positions: source.table("transformer.wpe.weight")?,
            blocks,
            norm: norm(source, "transformer.ln_f")?,
            config,
        })
    }

    /// What this decoder is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty cache for `sequences` sequences.
    pub fn cache(&self, sequences: usize) -> Cache {
        Cache::new(self.blocks.len(), sequences)
    }

    /// The last hidden states `[t, d]` of packed `tokens`, before the final norm's head.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a sequence is longer than the positions or a token is outside the
    /// vocabulary.
    pub fn hidden(
        &self,
        tokens: &[u32],
        mut cache: Option<&mut Cache>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let positions = pass.segments.positions();
        self.check(tokens, &positions, pass)?;
        let t = tokens.len();
        let index = |ids: &[u32]| Tensor::from_slice(ids, t, &Device::Cpu);
        let embedded = match &self.tokens {
            Weight::Frozen(packed) => {
                let mut rows = vec![0.0; t * self.config.hidden_size];
                packed.rows(tokens, &mut rows);
                Tensor::from_vec(rows, (t, self.config.hidden_size), &Device::Cpu)?
            }
            Weight::Trained(table) => ops::rows(table, &index(tokens)?)?,
        };
        let mut x = embedded.add(&ops::rows(&self.positions, &index(&positions)?)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(layer, &x, cache.as_deref_mut(), pass)?;
        }
        if let Some(cache) = cache {
            cache.advance(pass.segments.lens());
        }
        Ok(x)
    }

    /// Next-token logits `[n, v]` of the wanted rows of `hidden` `[t, d]`.
    ///
    /// # Errors
    /// When a row is outside `hidden`.
    pub fn logits(&self, hidden: &Tensor, which: Logits<'_>) -> Result<Tensor> {
        let wanted = match which {
            Logits::All => hidden.clone(),
            Logits::Rows(rows) => {
                let rows = Tensor::from_slice(rows, rows.len(), &Device::Cpu)?;
                ops::rows(hidden, &rows)?
            }
        };
        let x = self.norm.forward(&wanted)?;
        Ok(match &self.tokens {
            Weight::Frozen(packed) => ops::product(&x, packed, None)?,
            Weight::Trained(table) => x.matmul(&table.t()?)?,
        })
    }

    fn check(&self, tokens: &[u32], positions: &[u32], pass: &Pass<'_>) -> Result<()> {
        let Config {
            vocab_size,
            max_position_embeddings: longest,
            ..
        } = self.config;
        if tokens.len() != pass.segments.tokens() || tokens.is_empty() {
            return Err(Error::invalid(
                "a batch must hold as many tokens as its segments, and some",
            ));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::invalid(format!(
                "token {id} is outside the {vocab_size} known"
            )));
        }
        if positions.iter().any(|&p| p as usize >= longest) {
            return Err(Error::invalid(format!(
                "a sequence is longer than the {longest} positions of this base; shorten it or \
                 lower --max-input / --max-new"
            )));
        }
        Ok(())
    }
}
