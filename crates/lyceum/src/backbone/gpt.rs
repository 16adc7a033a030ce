//! GPT-2, GPT-Neo, GPT-NeoX and Phi: layer norms and plain MLPs.

use serde::{Deserialize, Serialize};

use super::config::{Config, Positions, Qkv, Residual};
use super::family::{activation, head_dim, layers};
use super::fields::Fields;
use super::rope::{Context, Rope};
use crate::error::{Error, Result};

pub(super) fn gpt2(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("n_embd")?;
    c.max_position_embeddings = f.size("n_positions")?;
    c.norm.eps = f.number_or("layer_norm_epsilon", 1e-5)?;
    let a = &mut c.attention;
    a.heads = f.size("n_head")?;
    (a.kv_heads, a.dim) = (a.heads, head_dim(f, c.hidden_size, a.heads)?);
    a.qkv = Qkv::Fused;
    c.mlp.inner = f.size_or("n_inner", 4 * c.hidden_size)?;
    c.mlp.activation = activation(f, "activation_function", "gelu_new")?;
    let scale = match f.or("scale_attn_weights", true)? {
        true => (c.attention.dim as f64).powf(-0.5),
        false => 1.0,
    };
    let n = f.size("n_layer")?;
    c.layers = layers(f, n, scale)?;
    if f.or("scale_attn_by_inverse_layer_idx", false)? {
        let all = c.layers.iter_mut().enumerate();
        all.for_each(|(i, layer)| layer.scale /= (i + 1) as f64);
    }
    c.head.tied = f.or("tie_word_embeddings", true)?;
    c.transposed = true;
    // An order of computation, and older programs' bookkeeping.
    f.skip(&[
        "reorder_and_upcast_attn",
        "n_ctx",
        "n_special",
        "predict_special_tokens",
    ]);
    Ok(())
}

pub(super) fn gpt_neox(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    c.norm.eps = f.number_or("layer_norm_eps", 1e-5)?;
    c.residual = match f.or("use_parallel_residual", true)? {
        true => Residual::Parallel,
        false => Residual::Sequential,
    };
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    (a.kv_heads, a.dim) = (a.heads, head_dim(f, c.hidden_size, a.heads)?);
    a.qkv = Qkv::Interleaved;
    let bias = f.or("attention_bias", true)?;
    (a.qkv_bias, a.out_bias) = (bias, bias);
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.activation = activation(f, "hidden_act", "gelu")?;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.or("tie_word_embeddings", false)?;
    let percent = f.number_or("rotary_pct", 0.25)?;
    let context = Context {
        dim: c.attention.dim,
        partial: f.number_or("partial_rotary_factor", percent)?,
        theta: f.number_or("rotary_emb_base", 10_000.0)?,
        positions: f.size("max_position_embeddings")?,
        original: None,
    };
    let (rope, longest) = Rope::take(f, context)?;
    c.positions = Positions::Rotary(rope);
    c.max_position_embeddings = longest;
    Ok(())
}

pub(super) fn phi(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    c.norm.eps = f.number_or("layer_norm_eps", 1e-5)?;
    c.residual = Residual::Shared;
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    a.kv_heads = f.size_or("num_key_value_heads", a.heads)?;
    a.dim = head_dim(f, c.hidden_size, a.heads)?;
    a.qk_norm = f.or("qk_layernorm", false)?;
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.activation = activation(f, "hidden_act", "gelu_new")?;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.or("tie_word_embeddings", false)?;
    c.head.bias = true;
    let context = Context {
        dim: c.attention.dim,
        partial: f.number_or("partial_rotary_factor", 0.5)?,
        theta: 10_000.0,
        positions: f.size("max_position_embeddings")?,
        original: None,
    };
    let (rope, longest) = Rope::take(f, context)?;
    c.positions = Positions::Rotary(rope);
    c.max_position_embeddings = longest;
    Ok(())
}

/// How far a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// Every earlier position.
    Global,
    /// The last `window_size` positions, itself included.
    Local,
}

/// GPT-Neo in the field names of its `config.json`: the family that can be pre-trained here.
///
/// Attention logits are not scaled; q, k and v have no bias. Its fingerprint covers these fields
/// in this order, so they must stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GptNeo {
    /// `gpt_neo`.
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
    /// The activation of the MLP.
    #[serde(default = "gelu_new")]
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
fn gelu_new() -> String {
    "gelu_new".into()
}
fn tied() -> bool {
    true
}

impl GptNeo {
    /// The description of this decoder.
    ///
    /// # Errors
    /// When a size is zero or two fields do not fit.
    pub fn describe(&self) -> Result<Config> {
        let value = serde_json::to_value(self).map_err(|e| Error::format("gpt_neo", e))?;
        super::family::config("gpt_neo", value)
    }

    /// What each layer's attention sees, one entry per layer.
    pub(super) fn spans(&self) -> Vec<Span> {
        let repeat =
            |(pattern, times): &(Vec<Span>, usize)| pattern.repeat((*times).min(self.num_layers));
        self.attention_types.iter().flat_map(repeat).collect()
    }
}

pub(super) fn gpt_neo(f: &mut Fields, c: &mut Config) -> Result<()> {
    let own = GptNeo {
        model_type: c.model_type.clone(),
        vocab_size: f.size("vocab_size")?,
        hidden_size: f.size("hidden_size")?,
        num_layers: f.size("num_layers")?,
        num_heads: f.size("num_heads")?,
        intermediate_size: f.size_maybe("intermediate_size")?,
        max_position_embeddings: f.size("max_position_embeddings")?,
        window_size: f.size_or("window_size", window())?,
        attention_types: f.need("attention_types")?,
        layer_norm_epsilon: f.number_or("layer_norm_epsilon", epsilon())?,
        activation_function: f.or("activation_function", gelu_new())?,
        tie_word_embeddings: f.or("tie_word_embeddings", tied())?,
    };
    // What attention_types says, layer by layer.
    f.skip(&["attention_layers"]);
    c.vocab_size = own.vocab_size;
    c.hidden_size = own.hidden_size;
    c.max_position_embeddings = own.max_position_embeddings;
    c.norm.eps = own.layer_norm_epsilon;
    let a = &mut c.attention;
    (a.heads, a.kv_heads) = (own.num_heads, own.num_heads);
    a.dim = head_dim(f, own.hidden_size, own.num_heads)?;
    a.qkv_bias = false;
    c.mlp.inner = own.intermediate_size.unwrap_or(4 * own.hidden_size);
    c.mlp.activation = super::family::activation_of(f, &own.activation_function)?;
    c.head.tied = own.tie_word_embeddings;
    c.layers = layers(f, own.num_layers, 1.0)?;
    let spans = own.spans();
    if spans.len() != own.num_layers {
        let (n, l) = (spans.len(), own.num_layers);
        return Err(f.bad(format!(
            "attention_types describes {n} layers, num_layers is {l}"
        )));
    }
    for (layer, span) in c.layers.iter_mut().zip(spans) {
        layer.window = (span == Span::Local).then_some(own.window_size);
    }
    c.positions = Positions::Learned;
    c.identity = Some(serde_json::to_string(&own).map_err(|e| f.bad(e))?);
    Ok(())
}
