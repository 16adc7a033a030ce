//! Llama and its relatives: RMS norms, rotary positions, gated MLPs, grouped heads.

use super::config::{Config, MlpShape, NormKind, Positions, Qkv, Residual};
use super::family::{activation, activation_of, head_dim, layers};
use super::fields::Fields;
use super::rope::{Context, Rope};
use crate::error::Result;

/// What the relatives leave out of `config.json` when it has this value.
struct Defaults {
    kv_heads: Option<usize>,
    dim: Option<usize>,
    eps: f64,
    activation: &'static str,
    tied: bool,
    /// The field of the activation.
    named: &'static str,
}

const LLAMA: Defaults = Defaults {
    kv_heads: None,
    dim: None,
    eps: 1e-6,
    activation: "silu",
    tied: false,
    named: "hidden_act",
};

/// What all of them have in common.
fn common(f: &mut Fields, c: &mut Config, defaults: &Defaults) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    a.kv_heads = f.size_or("num_key_value_heads", defaults.kv_heads.unwrap_or(a.heads))?;
    a.dim = match (f.size_maybe("head_dim")?, defaults.dim) {
        (Some(dim), _) | (None, Some(dim)) => dim,
        (None, None) => head_dim(f, c.hidden_size, a.heads)?,
    };
    (a.qkv_bias, a.out_bias) = (false, false);
    c.norm.kind = NormKind::Rms;
    c.norm.eps = f.number_or("rms_norm_eps", defaults.eps)?;
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.shape = MlpShape::Gated;
    c.mlp.activation = activation(f, defaults.named, defaults.activation)?;
    c.mlp.bias = false;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.or("tie_word_embeddings", defaults.tied)?;
    let original = f.size_maybe("original_max_position_embeddings")?;
    let context = Context {
        dim: c.attention.dim,
        partial: f.number_or("partial_rotary_factor", 1.0)?,
        theta: 10_000.0,
        positions: f.size("max_position_embeddings")?,
        original,
    };
    let (rope, longest) = Rope::take(f, context)?;
    c.positions = Positions::Rotary(rope);
    c.max_position_embeddings = longest;
    Ok(())
}

/// `attention_bias`: biases of q, k, v and of the output.
fn biased(f: &mut Fields, c: &mut Config) -> Result<()> {
    let bias = f.or("attention_bias", false)?;
    (c.attention.qkv_bias, c.attention.out_bias) = (bias, bias);
    Ok(())
}

/// Gives every layer that `slides` (or that `layer_types` names as sliding) the window.
fn windows(
    f: &mut Fields,
    c: &mut Config,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<()> {
    let types: Option<Vec<String>> = f.maybe("layer_types")?;
    if types.as_ref().is_some_and(|t| t.len() != c.layers.len()) {
        return Err(f.bad("field `layer_types` must have an entry per layer"));
    }
    for i in 0..c.layers.len() {
        let slides = match types.as_ref().map(|t| t[i].as_str()) {
            None => slides(i) && window.is_some(),
            Some("full_attention") => false,
            Some("sliding_attention") => true,
            Some(other) => {
                return Err(f.bad(format!(
                    "layer_types `{other}` is not supported; supported: full_attention, \
                     sliding_attention"
                )));
            }
        };
        c.layers[i].window = match (slides, window) {
            (false, _) => None,
            (true, Some(window)) => Some(window),
            (true, None) => return Err(f.bad("layer_types slide, but there is no sliding_window")),
        };
    }
    Ok(())
}

pub(super) fn llama(f: &mut Fields, c: &mut Config) -> Result<()> {
    common(f, c, &LLAMA)?;
    biased(f, c)?;
    c.mlp.bias = f.or("mlp_bias", false)?;
    Ok(())
}

pub(super) fn mistral(f: &mut Fields, c: &mut Config) -> Result<()> {
    let defaults = Defaults {
        kv_heads: Some(8),
        ..LLAMA
    };
    common(f, c, &defaults)?;
    let window = f.size_maybe("sliding_window")?;
    windows(f, c, window, |_| true)
}

/// The window of the Qwens: for layers from `max_window_layers` on, and only if switched on.
fn qwen_windows(f: &mut Fields, c: &mut Config) -> Result<()> {
    let on = f.or("use_sliding_window", false)?;
    let window = f.size_or("sliding_window", 4096)?;
    let first: usize = f.or("max_window_layers", 28)?;
    windows(f, c, on.then_some(window), |i| i >= first)
}

pub(super) fn qwen2(f: &mut Fields, c: &mut Config) -> Result<()> {
    common(f, c, &LLAMA)?;
    c.attention.qkv_bias = true;
    qwen_windows(f, c)
}

pub(super) fn qwen3(f: &mut Fields, c: &mut Config) -> Result<()> {
    let defaults = Defaults {
        dim: Some(128),
        ..LLAMA
    };
    common(f, c, &defaults)?;
    biased(f, c)?;
    c.attention.qk_norm = true;
    qwen_windows(f, c)
}

pub(super) fn phi3(f: &mut Fields, c: &mut Config) -> Result<()> {
    let defaults = Defaults { eps: 1e-5, ..LLAMA };
    common(f, c, &defaults)?;
    c.attention.qkv = Qkv::Fused;
    c.mlp.shape = MlpShape::Fused;
    let window = f.size_maybe("sliding_window")?;
    windows(f, c, window, |_| true)
}

pub(super) fn starcoder2(f: &mut Fields, c: &mut Config) -> Result<()> {
    let defaults = Defaults {
        kv_heads: Some(2),
        activation: "gelu_pytorch_tanh",
        tied: true,
        ..LLAMA
    };
    common(f, c, &defaults)?;
    for (name, known) in [("mlp_type", "default"), ("norm_type", "layer_norm")] {
        let said: String = f.or(name, known.into())?;
        if said != known {
            return Err(f.bad(format!(
                "field `{name}` is `{said}`: only `{known}` is supported"
            )));
        }
    }
    c.norm.kind = NormKind::Layer;
    c.norm.eps = f.number_or("norm_epsilon", 1e-5)?;
    c.mlp.shape = MlpShape::Plain;
    let bias = f.or("use_bias", true)?;
    (c.attention.qkv_bias, c.attention.out_bias, c.mlp.bias) = (bias, bias, bias);
    f.skip(&["embedding_dropout", "residual_dropout"]);
    let window = f.size_maybe("sliding_window")?;
    windows(f, c, window, |_| true)
}

/// What both Gemmas share: norm weights less one, scaled embeddings, wide heads, a tied head.
fn gemmas(f: &mut Fields, c: &mut Config, named: &'static str) -> Result<()> {
    let defaults = Defaults {
        dim: Some(256),
        activation: "gelu_pytorch_tanh",
        tied: true,
        named,
        ..LLAMA
    };
    common(f, c, &defaults)?;
    biased(f, c)?;
    c.norm.plus_one = true;
    c.embedding_scale = (c.hidden_size as f32).sqrt();
    Ok(())
}

pub(super) fn gemma(f: &mut Fields, c: &mut Config) -> Result<()> {
    // The first checkpoints say "gelu" and mean the tanh form; programs disagree about which of
    // two fields counts, so both must say the same.
    let newer: Option<String> = f.maybe("hidden_activation")?;
    let older: Option<String> = f.maybe("hidden_act")?;
    let name = match (newer, older) {
        (Some(a), Some(b)) if a != b => {
            return Err(f.bad(format!(
                "hidden_activation is `{a}` and hidden_act is `{b}`: make them agree"
            )));
        }
        (None, Some(name)) if name == "gelu" => {
            return Err(f.bad(
                "hidden_act is `gelu`, by which the first Gemma checkpoints mean \
                 `gelu_pytorch_tanh`: write which one is meant to both hidden_act and \
                 hidden_activation",
            ));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => "gelu_pytorch_tanh".into(),
    };
    gemmas(f, c, "hidden_act")?;
    c.mlp.activation = activation_of(f, &name)?;
    Ok(())
}

pub(super) fn gemma2(f: &mut Fields, c: &mut Config) -> Result<()> {
    // Older names that say the same again.
    f.skip(&["hidden_act", "sliding_window_size"]);
    gemmas(f, c, "hidden_activation")?;
    c.residual = Residual::Sandwich;
    c.attention.soft_cap = f.number_maybe("attn_logit_softcapping")?;
    c.head.soft_cap = f.number_maybe("final_logit_softcapping")?;
    let scale = f.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5);
    c.layers.iter_mut().for_each(|layer| layer.scale = scale);
    let window = Some(f.size_or("sliding_window", 4096)?);
    windows(f, c, window, |i| i.is_multiple_of(2))
}
