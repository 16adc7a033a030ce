//! What a checkpoint's `config.json` says, checked.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::name::Site;

/// How far a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// Every earlier position.
    Global,
    /// The last `window_size` positions, itself included.
    Local,
}

/// A GPT-Neo shaped decoder, in the field names of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The family; `gpt_neo`.
    pub model_type: String,
    /// Number of tokens known.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads per block.
    pub num_heads: usize,
    /// Width of the MLP; four times the hidden size when absent.
    #[serde(default)]
    pub intermediate_size: Option<usize>,
    /// Longest sequence (positions are learned).
    pub max_position_embeddings: usize,
    /// What local layers see.
    #[serde(default = "window")]
    pub window_size: usize,
    /// Pattern and repetitions: `[[["global", "local"], 6]]`.
    pub attention_types: Vec<(Vec<Span>, usize)>,
    /// Added to the variance in every norm.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    /// `gelu_new`.
    #[serde(default = "activation")]
    pub activation_function: String,
    /// Whether the head is the token embedding.
    #[serde(default = "tied")]
    pub tie_word_embeddings: bool,
}

fn window() -> usize {
    256
}
fn epsilon() -> f64 {
    1e-5
}
fn activation() -> String {
    "gelu_new".into()
}
fn tied() -> bool {
    true
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When the file is missing, is not such a configuration, or describes a model that cannot
    /// be computed here.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Checks a configuration in memory; `what` names it in errors.
    pub(super) fn parse(text: &[u8], what: &str) -> Result<Self> {
        let value: serde_json::Value =
            serde_json::from_slice(text).map_err(|e| Error::format(what, e))?;
        let family = value
            .get("model_type")
            .and_then(|v| v.as_str())
            .unwrap_or("none");
        if family != "gpt_neo" {
            let why = format!("model_type `{family}` is not supported; supported: gpt_neo");
            return Err(Error::format(what, why));
        }
        let config: Config = serde_json::from_value(value).map_err(|e| Error::format(what, e))?;
        config.check().map_err(|why| Error::format(what, why))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.num_layers,
            self.num_heads,
        ];
        if sizes.contains(&0) || self.max_position_embeddings == 0 || self.window_size == 0 {
            return Err("sizes must not be zero".into());
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let (d, h) = (self.hidden_size, self.num_heads);
            return Err(format!(
                "hidden_size {d} is not a multiple of num_heads {h}"
            ));
        }
        if self.spans().len() != self.num_layers {
            let (n, l) = (self.spans().len(), self.num_layers);
            return Err(format!(
                "attention_types describes {n} layers, num_layers is {l}"
            ));
        }
        if self.activation_function != "gelu_new" {
            return Err(format!(
                "activation_function `{}` is not supported; supported: gelu_new",
                self.activation_function
            ));
        }
        if !self.tie_word_embeddings {
            return Err("an untied head is not supported for gpt_neo".into());
        }
        Ok(())
    }

    /// What each layer's attention sees, one entry per layer.
    pub fn spans(&self) -> Vec<Span> {
        let repeat =
            |(pattern, times): &(Vec<Span>, usize)| pattern.repeat((*times).min(self.num_layers));
        self.attention_types.iter().flat_map(repeat).collect()
    }

    /// Width of the MLP.
    pub fn inner(&self) -> usize {
        self.intermediate_size.unwrap_or(4 * self.hidden_size)
    }

    /// Every linear an expert can adapt, with (d_out, d_in), in network order.
    pub fn sites(&self) -> Vec<(Site, (usize, usize))> {
        let (d, inner) = (self.hidden_size, self.inner());
        let block = |i: usize| {
            let site = |path: &str| Site::new(format!("transformer.h.{i}.{path}"));
            [
                (site("attn.attention.q_proj"), (d, d)),
                (site("attn.attention.k_proj"), (d, d)),
                (site("attn.attention.v_proj"), (d, d)),
                (site("attn.attention.out_proj"), (d, d)),
                (site("mlp.c_fc"), (inner, d)),
                (site("mlp.c_proj"), (d, inner)),
            ]
        };
        (0..self.num_layers).flat_map(block).collect()
    }

    /// Every tensor of the checkpoint with its shape, in network order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.hidden_size;
        let mut all = vec![
            (
                "transformer.wte.weight".to_owned(),
                vec![self.vocab_size, d],
            ),
            (
                "transformer.wpe.weight".to_owned(),
                vec![self.max_position_embeddings, d],
            ),
        ];
        let norm = |all: &mut Vec<_>, path: String| {
            all.push((format!("{path}.weight"), vec![d]));
            all.push((format!("{path}.bias"), vec![d]));
        };
        for (i, sites) in self.sites().chunks(6).enumerate() {
            norm(&mut all, format!("transformer.h.{i}.ln_1"));
            norm(&mut all, format!("transformer.h.{i}.ln_2"));
            for (j, (site, (d_out, d_in))) in sites.iter().enumerate() {
                all.push((format!("{site}.weight"), vec![*d_out, *d_in]));
                if j >= 3 {
                    all.push((format!("{site}.bias"), vec![*d_out]));
                }
            }
        }
        norm(&mut all, "transformer.ln_f".to_owned());
        all
    }
}
