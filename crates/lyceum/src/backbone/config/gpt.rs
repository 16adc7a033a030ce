//! GPT-2, GPT-Neo, GPT-NeoX and Phi: layer norms and plain MLPs.

use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::read::{activation, activation_of, head_dim, layers, never_slides, same_layers};
use super::rope::Rope;
use super::rope_fields::Context;
use super::types::{Config, Positions, Residual};
use crate::error::Result;

pub(super) fn gpt2(f: &mut Fields, c: &mut Config) -> Result<()> {
    // The names other families use are taken for these, as transformers' attribute map does.
    f.alias("n_embd", "hidden_size")?;
    f.alias("n_layer", "num_hidden_layers")?;
    f.alias("n_head", "num_attention_heads")?;
    f.alias("n_positions", "max_position_embeddings")?;
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("n_embd")?;
    c.max_position_embeddings = f.size("n_positions")?;
    c.norm.eps = f.number("layer_norm_epsilon")?;
    let a = &mut c.attention;
    a.heads = f.size("n_head")?;
    (a.kv_heads, a.dim) = (a.heads, head_dim(f, c.hidden_size, a.heads)?);
    c.mlp.inner = f.size_maybe("n_inner")?.unwrap_or(4 * c.hidden_size);
    c.mlp.activation = activation(f, "activation_function")?;
    let scale = match f.flag("scale_attn_weights")? {
        true => (c.attention.dim as f64).powf(-0.5),
        false => 1.0,
    };
    let n = f.size("n_layer")?;
    c.layers = layers(f, n, scale)?;
    if f.flag("scale_attn_by_inverse_layer_idx")? {
        let all = c.layers.iter_mut().enumerate();
        all.for_each(|(i, layer)| layer.scale /= (i + 1) as f64);
    }
    c.head.tied = f.flag("tie_word_embeddings")?;
    c.transposed = true;
    never_slides(f)?;
    same_layers(f, &c.layers)?;
    // The length of the mask in the first programs; n_positions decides since.
    let mask = f.count_maybe("n_ctx")?;
    if let Some(n) = mask.filter(|n| *n != c.max_position_embeddings) {
        f.note(format!(
            "`n_ctx` is {n} and `n_positions` {}: the latter counts, as in transformers",
            c.max_position_embeddings
        ));
    }
    // An order of computation, and older programs' bookkeeping.
    f.skip(&[
        "reorder_and_upcast_attn",
        "n_special",
        "predict_special_tokens",
    ]);
    Ok(())
}

pub(super) fn gpt_neox(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    c.norm.eps = f.number("layer_norm_eps")?;
    c.residual = match f.flag("use_parallel_residual")? {
        true => Residual::Parallel,
        false => Residual::Sequential,
    };
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    (a.kv_heads, a.dim) = (a.heads, head_dim(f, c.hidden_size, a.heads)?);
    f.again("num_key_value_heads", "num_attention_heads", a.heads)?;
    f.again("head_dim", "hidden_size / num_attention_heads", a.dim)?;
    let bias = f.flag("attention_bias")?;
    (a.qkv_bias, a.out_bias) = (bias, bias);
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.activation = activation(f, "hidden_act")?;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.flag("tie_word_embeddings")?;
    never_slides(f)?;
    same_layers(f, &c.layers)?;
    // transformers 4 writes both names of each, and goes by the first.
    f.alias("rotary_emb_base", "rope_theta")?;
    f.alias("rotary_pct", "partial_rotary_factor")?;
    let context = Context {
        dim: c.attention.dim,
        theta: "rotary_emb_base",
        partial: "rotary_pct",
        reads_partial: true,
        only_long: false,
    };
    Rope::take(f, c, context)
}

pub(super) fn phi(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    c.norm.eps = f.number("layer_norm_eps")?;
    c.residual = Residual::Shared;
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    a.kv_heads = f.size_maybe("num_key_value_heads")?.unwrap_or(a.heads);
    a.dim = match f.size_maybe("head_dim")? {
        Some(dim) => dim,
        None => head_dim(f, c.hidden_size, a.heads)?,
    };
    a.qk_norm = f.flag("qk_layernorm")?;
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.activation = activation(f, "hidden_act")?;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.flag("tie_word_embeddings")?;
    c.head.bias = true;
    never_slides(f)?;
    same_layers(f, &c.layers)?;
    let context = Context {
        dim: c.attention.dim,
        theta: "rope_theta",
        partial: "partial_rotary_factor",
        reads_partial: true,
        only_long: false,
    };
    Rope::take(f, c, context)
}

/// Attention spans of a layer.
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
    /// The window of local layers, in positions.
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
    /// `true` if the head is the token embedding.
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
    /// The attention span of each layer, one entry per layer.
    pub(super) fn spans(&self) -> Vec<Span> {
        let repeat =
            |(pattern, times): &(Vec<Span>, usize)| pattern.repeat((*times).min(self.num_layers));
        self.attention_types.iter().flat_map(repeat).collect()
    }
}

pub(super) fn gpt_neo(f: &mut Fields, c: &mut Config) -> Result<()> {
    f.alias("num_layers", "num_hidden_layers")?;
    f.alias("num_heads", "num_attention_heads")?;
    let kinds = f.list("attention_types", "[kinds of attention, repetitions]")?;
    let own = GptNeo {
        model_type: c.model_type.clone(),
        vocab_size: f.size("vocab_size")?,
        hidden_size: f.size("hidden_size")?,
        num_layers: f.size("num_layers")?,
        num_heads: f.size("num_heads")?,
        intermediate_size: f.size_maybe("intermediate_size")?,
        max_position_embeddings: f.size("max_position_embeddings")?,
        window_size: f.size("window_size")?,
        attention_types: kinds.unwrap_or_else(|| vec![(vec![Span::Global, Span::Local], 12)]),
        layer_norm_epsilon: f.number("layer_norm_epsilon")?,
        activation_function: f.text("activation_function")?,
        tie_word_embeddings: f.flag("tie_word_embeddings")?,
    };
    c.vocab_size = own.vocab_size;
    c.hidden_size = own.hidden_size;
    c.max_position_embeddings = own.max_position_embeddings;
    c.norm.eps = own.layer_norm_epsilon;
    let a = &mut c.attention;
    (a.heads, a.kv_heads) = (own.num_heads, own.num_heads);
    a.dim = head_dim(f, own.hidden_size, own.num_heads)?;
    a.qkv_bias = false;
    c.mlp.inner = own.intermediate_size.unwrap_or(4 * own.hidden_size);
    c.mlp.activation = activation_of(f, &own.activation_function)?;
    c.head.tied = own.tie_word_embeddings;
    c.layers = layers(f, own.num_layers, 1.0)?;
    let spans = own.spans();
    if spans.len() != own.num_layers {
        let (n, l) = (spans.len(), own.num_layers);
        return Err(f.bad(format!(
            "attention_types describes {n} layers, num_layers is {l}"
        )));
    }
    // What attention_types says, layer by layer.
    let again: Option<Vec<Span>> = f.list("attention_layers", "`global` and `local`")?;
    if again.is_some_and(|again| again != spans) {
        return Err(f.bad(
            "`attention_layers` and `attention_types` contradict each other; leave \
             attention_layers out, which says the same layer by layer",
        ));
    }
    for (layer, span) in c.layers.iter_mut().zip(spans) {
        layer.window = (span == Span::Local).then_some(own.window_size);
    }
    never_slides(f)?;
    same_layers(f, &c.layers)?;
    c.positions = Positions::Learned;
    c.identity = Some(serde_json::to_string(&own).map_err(|e| f.bad(e))?);
    Ok(())
}
