//! Llama and its relatives: RMS norms, rotary positions, gated MLPs, grouped heads.

use lyceum_kernels::activation::Activation;

use super::fields::Fields;
use super::read::{activation, activation_of, head_dim, layers, never_slides, same_layers};
use super::rope::Rope;
use super::rope_fields::Context;
use super::types::{Config, NormKind, Residual};
use crate::error::Result;

/// Reads the fields that all of them share; `named` is the field of the activation.
fn common(f: &mut Fields, c: &mut Config, named: &str) -> Result<()> {
    c.vocab_size = f.size("vocab_size")?;
    c.hidden_size = f.size("hidden_size")?;
    let a = &mut c.attention;
    a.heads = f.size("num_attention_heads")?;
    a.kv_heads = f.size_maybe("num_key_value_heads")?.unwrap_or(a.heads);
    a.dim = match f.size_maybe("head_dim")? {
        Some(dim) => dim,
        None => head_dim(f, c.hidden_size, a.heads)?,
    };
    (a.qkv_bias, a.out_bias) = (false, false);
    c.norm.kind = NormKind::Rms;
    c.mlp.inner = f.size("intermediate_size")?;
    c.mlp.activation = activation(f, named)?;
    c.mlp.bias = false;
    let n = f.size("num_hidden_layers")?;
    c.layers = layers(f, n, (c.attention.dim as f64).powf(-0.5))?;
    c.head.tied = f.flag("tie_word_embeddings")?;
    let only_long = c.model_type == "phi3";
    let context = Context {
        dim: c.attention.dim,
        theta: "rope_theta",
        partial: "partial_rotary_factor",
        reads_partial: only_long,
        only_long,
    };
    Rope::take(f, c, context)
}

/// The relatives whose norms are RMS norms.
fn relative(f: &mut Fields, c: &mut Config) -> Result<()> {
    c.norm.eps = f.number("rms_norm_eps")?;
    common(f, c, "hidden_act")
}

/// `attention_bias`: biases of q, k, v and of the output.
fn biased(f: &mut Fields, c: &mut Config) -> Result<()> {
    let bias = f.flag("attention_bias")?;
    (c.attention.qkv_bias, c.attention.out_bias) = (bias, bias);
    Ok(())
}

/// Gives every layer the window that `sliding_window` says, if it says one.
fn all_slide(f: &mut Fields, c: &mut Config) -> Result<()> {
    let window = f.size_maybe("sliding_window")?;
    let switch = f.flag_maybe("use_sliding_window")?;
    if switch.is_some_and(|on| on != window.is_some()) {
        let window = window.map_or_else(|| "null".into(), |n| n.to_string());
        return Err(f.bad(format!(
            "fields `use_sliding_window` and `sliding_window` ({window}, also where it is left \
             out) contradict each other; this model_type goes by sliding_window alone: make them \
             agree"
        )));
    }
    if window.is_none() {
        f.skip(&["max_window_layers"]);
    }
    c.layers.iter_mut().for_each(|layer| layer.window = window);
    same_layers(f, &c.layers)
}

/// Gives every layer that `slides` (or that `layer_types` names as sliding) the window.
fn windows(
    f: &mut Fields,
    c: &mut Config,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<()> {
    let types: Option<Vec<String>> = f.list("layer_types", "texts")?;
    if types.as_ref().is_some_and(|t| t.len() != c.layers.len()) {
        return Err(f.bad("field `layer_types` must have an entry per layer"));
    }
    for i in 0..c.layers.len() {
        let slides = match types.as_ref().map(|t| t[i].as_str()) {
            None => slides(i),
            Some("full_attention" | "attention") => false,
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
            (true, None) => {
                return Err(f.bad(
                    "layers slide (`layer_types`), but `sliding_window` is null or switched off",
                ));
            }
        };
    }
    Ok(())
}

pub(super) fn llama(f: &mut Fields, c: &mut Config) -> Result<()> {
    relative(f, c)?;
    biased(f, c)?;
    c.mlp.bias = f.flag("mlp_bias")?;
    never_slides(f)?;
    same_layers(f, &c.layers)
}

pub(super) fn mistral(f: &mut Fields, c: &mut Config) -> Result<()> {
    relative(f, c)?;
    all_slide(f, c)
}

/// The window of the Qwens: for layers from `max_window_layers` on, and only if switched on.
fn qwen_windows(f: &mut Fields, c: &mut Config) -> Result<()> {
    if !f.flag("use_sliding_window")? {
        f.skip(&["sliding_window", "max_window_layers"]);
        return windows(f, c, None, |_| false);
    }
    let window = f.size_maybe("sliding_window")?;
    let first = f.count_maybe("max_window_layers")?.unwrap_or_default();
    windows(f, c, window, |i| window.is_some() && i >= first)
}

pub(super) fn qwen2(f: &mut Fields, c: &mut Config) -> Result<()> {
    relative(f, c)?;
    c.attention.qkv_bias = true;
    if f.flag_maybe("qkv_bias")? == Some(false) {
        return Err(f.bad(
            "field `qkv_bias` is false, but a qwen2 has biases at q, k and v: only true is supported",
        ));
    }
    qwen_windows(f, c)
}

pub(super) fn qwen3(f: &mut Fields, c: &mut Config) -> Result<()> {
    relative(f, c)?;
    biased(f, c)?;
    c.attention.qk_norm = true;
    qwen_windows(f, c)
}

pub(super) fn phi3(f: &mut Fields, c: &mut Config) -> Result<()> {
    relative(f, c)?;
    all_slide(f, c)
}

pub(super) fn starcoder2(f: &mut Fields, c: &mut Config) -> Result<()> {
    common(f, c, "hidden_act")?;
    for (name, known) in [("mlp_type", "default"), ("norm_type", "layer_norm")] {
        if let Some(said) = f.text_maybe(name)?.filter(|said| said != known) {
            return Err(f.bad(format!(
                "field `{name}` is `{said}`: only `{known}` is supported"
            )));
        }
    }
    c.norm.kind = NormKind::Layer;
    c.norm.eps = f.number("norm_epsilon")?;
    let bias = f.flag("use_bias")?;
    (c.attention.qkv_bias, c.attention.out_bias, c.mlp.bias) = (bias, bias, bias);
    f.skip(&["embedding_dropout", "residual_dropout"]);
    all_slide(f, c)
}

/// Reads the fields that both Gemmas share: norm weights less one, scaled embeddings, wide heads, a
/// tied head. The activation is in the field `named`; `other` is its name in the other Gemma.
fn gemmas(f: &mut Fields, c: &mut Config, named: &str, other: &str) -> Result<()> {
    let also = f.text_maybe(other)?;
    c.norm.eps = f.number("rms_norm_eps")?;
    common(f, c, named)?;
    if let Some(also) = also
        && activation_of(f, &also).ok() != Some(c.mlp.activation)
    {
        f.note(format!(
            "`{other}` is `{also}` and is not used: transformers 5 goes by `{named}` in this \
             model_type, also where it is left out"
        ));
    }
    biased(f, c)?;
    c.norm.plus_one = true;
    c.embedding_scale = (c.hidden_size as f32).sqrt();
    Ok(())
}

pub(super) fn gemma(f: &mut Fields, c: &mut Config) -> Result<()> {
    gemmas(f, c, "hidden_act", "hidden_activation")?;
    if c.mlp.activation == Activation::Gelu {
        f.note(
            "`hidden_act` is `gelu`, the exact one, and is taken at its word as in transformers 5; \
             the first Gemma checkpoints were trained with `gelu_pytorch_tanh`",
        );
    }
    never_slides(f)?;
    same_layers(f, &c.layers)
}

pub(super) fn gemma2(f: &mut Fields, c: &mut Config) -> Result<()> {
    // An older name of the same.
    f.alias("sliding_window", "sliding_window_size")?;
    gemmas(f, c, "hidden_activation", "hidden_act")?;
    c.residual = Residual::Sandwich;
    c.attention.soft_cap = f.number_maybe("attn_logit_softcapping")?;
    c.head.soft_cap = f.number_maybe("final_logit_softcapping")?;
    let scale = f.number("query_pre_attn_scalar")?.powf(-0.5);
    c.layers.iter_mut().for_each(|layer| layer.scale = scale);
    let window = f.size_maybe("sliding_window")?;
    windows(f, c, window, |i| i.is_multiple_of(2))
}
