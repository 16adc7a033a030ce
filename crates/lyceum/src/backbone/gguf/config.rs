//! From the fields of a GGUF file to the description of its decoder.
//!
//! The fields are put into the words of a `config.json` and read by the family's own reader, so
//! the same things are checked and refused. What ggml's files leave out is what their programs
//! take for granted: Gemma's activation, for one.

use lyceum_formats::gguf::{Header, Value};
use serde_json::{Map, Value as Json, json};

use super::super::checkpoint::RowOrder;
use super::super::config::{self, Config, Qkv};
use super::fields::{Fields, below};
use crate::error::{Error, Result};

/// `general.architecture`, and the family it is.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gpt2", "gpt2"),
    ("gptneox", "gpt_neox"),
    ("llama", "llama"),
    ("phi2", "phi"),
    ("phi3", "phi3"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
];

/// The description of the decoder in the file, which errors call `what`. `numbers` gives the
/// values of a small tensor.
pub(super) fn config(
    what: &str,
    header: &Header<'_>,
    numbers: impl Fn(&str) -> Result<Option<Vec<f32>>>,
) -> Result<Config> {
    if let Some(Value::Text(kind)) = header.fields.get("general.type")
        && *kind != "model"
    {
        return Err(Error::format(
            what,
            format!("is not a model (general.type is `{kind}`)"),
        ));
    }
    let Some(Value::Text(arch)) = header.fields.get("general.architecture") else {
        return Err(Error::format(what, "has no `general.architecture`"));
    };
    let known = ARCHITECTURES.iter().find(|(name, _)| name == arch);
    let Some((_, family)) = known else {
        let all: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        return Err(Error::format(
            what,
            format!(
                "the architecture `{arch}` is not supported; supported: {}",
                all.join(", ")
            ),
        ));
    };
    let map = below(header, arch);
    let model_type = match map.contains_key("attention.sliding_window") && *arch == "llama" {
        true => "mistral",
        false => family,
    };
    let mut fields = Fields {
        what,
        arch,
        family: model_type,
        map,
    };
    let mut json = Map::new();
    json.insert("model_type".into(), model_type.into());
    sizes(&mut fields, header, model_type, &mut json)?;
    if model_type != "gpt2" {
        rope(&mut fields, &mut json, &numbers)?;
    }
    fields.finish()?;
    let mut config = config::config(what, Json::Object(json))?;
    // ggml keeps matrices as they are multiplied, and Gemma's norms with the one added.
    config.transposed = false;
    config.norm.plus_one = false;
    Ok(config)
}

/// The shape of a decoder, as the fields of every family say it.
struct Sizes {
    vocabulary: usize,
    width: u64,
    blocks: u64,
    heads: u64,
    groups: u64,
    /// Values per head.
    dim: u64,
    /// Width inside the MLP.
    inner: u64,
    context: u64,
    /// Added to the variance in a layer norm, and in one of root mean squares.
    layer: Option<f64>,
    rms: Option<f64>,
}

impl Sizes {
    fn take(fields: &mut Fields<'_>, header: &Header<'_>) -> Result<Self> {
        let vocabulary = header.tensors.get("token_embd.weight");
        let vocabulary = vocabulary.and_then(|entry| entry.shape.first());
        let Some(vocabulary) = vocabulary else {
            return Err(fields.bad("holds no tensor `token_embd.weight`"));
        };
        let (width, blocks) = (
            fields.need("embedding_length")?,
            fields.need("block_count")?,
        );
        let heads = fields.need("attention.head_count")?;
        let groups = fields.whole("attention.head_count_kv")?.unwrap_or(heads);
        let dim = fields.whole("attention.key_length")?;
        // llama.cpp shares the width out among the heads, whatever the family's own default is.
        let dim = dim.unwrap_or(width / heads.max(1));
        let values = fields.whole("attention.value_length")?;
        if values.is_some_and(|values| values != dim) {
            return Err(fields.bad("keys and values of different widths are not supported"));
        }
        Ok(Sizes {
            vocabulary: *vocabulary,
            width,
            blocks,
            heads,
            groups,
            dim,
            layer: fields.real("attention.layer_norm_epsilon")?,
            rms: fields.real("attention.layer_norm_rms_epsilon")?,
            inner: fields.need("feed_forward_length")?,
            context: fields.need("context_length")?,
        })
    }
}

fn sizes(
    fields: &mut Fields<'_>,
    header: &Header<'_>,
    model_type: &str,
    json: &mut Map<String, Json>,
) -> Result<()> {
    let sizes = Sizes::take(fields, header)?;
    let has = |name: &str| header.tensors.contains_key(name);
    let mut put = |name: &str, value: Json| {
        json.insert(name.into(), value);
    };
    put("vocab_size", sizes.vocabulary.into());
    put("tie_word_embeddings", (!has("output.weight")).into());
    if model_type == "gpt2" {
        put("n_embd", sizes.width.into());
        put("n_layer", sizes.blocks.into());
        put("n_head", sizes.heads.into());
        put("n_inner", sizes.inner.into());
        put("n_positions", sizes.context.into());
        put("layer_norm_epsilon", json!(sizes.layer));
        return Ok(());
    }
    put("hidden_size", sizes.width.into());
    put("num_hidden_layers", sizes.blocks.into());
    put("num_attention_heads", sizes.heads.into());
    put("intermediate_size", sizes.inner.into());
    put("max_position_embeddings", sizes.context.into());
    match model_type {
        "gpt_neox" => {
            put("layer_norm_eps", json!(sizes.layer));
            put("attention_bias", has("blk.0.attn_qkv.bias").into());
            let parallel = fields.flag("use_parallel_residual")?;
            put("use_parallel_residual", json!(parallel));
        }
        "phi" => {
            put("layer_norm_eps", json!(sizes.layer));
            put("num_key_value_heads", sizes.groups.into());
        }
        _ => {
            put("rms_norm_eps", json!(sizes.rms));
            put("num_key_value_heads", sizes.groups.into());
            put("head_dim", json!(sizes.dim));
        }
    }
    let biased = has("blk.0.attn_q.bias");
    attention(fields, &sizes, (model_type, biased), put)
}

/// Windows, biases and caps of attention, and Gemma's activation, as the family has them.
fn attention(
    fields: &mut Fields<'_>,
    sizes: &Sizes,
    (model_type, biased): (&str, bool),
    mut put: impl FnMut(&str, Json),
) -> Result<()> {
    let window = fields.whole("attention.sliding_window")?;
    match model_type {
        "llama" | "qwen3" | "gemma" => {
            put("attention_bias", biased.into());
            if model_type == "gemma" {
                put("hidden_activation", "gelu_pytorch_tanh".into());
            }
        }
        "mistral" | "phi3" => put("sliding_window", json!(window.filter(|n| *n > 0))),
        "gemma2" => {
            put("hidden_activation", "gelu_pytorch_tanh".into());
            put("sliding_window", json!(window));
            let attention = fields.real("attn_logit_softcapping")?;
            put("attn_logit_softcapping", json!(attention));
            let last = fields.real("final_logit_softcapping")?;
            put("final_logit_softcapping", json!(last));
            // Not in the file: the largest of the family divides by its width per head.
            let scalar = match sizes.blocks {
                46 => sizes.width / sizes.heads.max(1),
                _ => sizes.dim,
            };
            put("query_pre_attn_scalar", scalar.into());
        }
        _ if window.is_some_and(|n| n > 0) => {
            return Err(fields.bad("windows are not known for this architecture"));
        }
        _ => {}
    }
    Ok(())
}

/// Rotary positions.
fn rope(
    fields: &mut Fields<'_>,
    json: &mut Map<String, Json>,
    numbers: &impl Fn(&str) -> Result<Option<Vec<f32>>>,
) -> Result<()> {
    let size = |json: &Map<String, Json>, name: &str| json.get(name).and_then(Json::as_u64);
    let heads = size(json, "num_attention_heads").unwrap_or(1).max(1);
    let dim = size(json, "head_dim");
    let dim = dim.unwrap_or(size(json, "hidden_size").unwrap_or(0) / heads);
    // All of a head where the key is absent, whatever the family's own default is. Half a value
    // more, so that the family's reader finds the whole number again.
    let part = match fields.whole("rope.dimension_count")? {
        Some(turning) if turning != dim => (turning as f64 + 0.5) / dim.max(1) as f64,
        _ => 1.0,
    };
    json.insert("partial_rotary_factor".into(), part.into());
    if let Some(theta) = fields.real("rope.freq_base")? {
        json.insert("rope_theta".into(), theta.into());
    }
    let original = match fields.map.get("rope.scaling.original_context_length") {
        Some(Value::Whole(n @ 1..=0xffff_ffff)) => Some(*n as u64),
        _ => None,
    };
    let kind = fields.text("rope.scaling.type")?;
    // An older name of the linear factor; 0 is 1.
    let older = fields.real("rope.scale_linear")?;
    let factor = fields.real("rope.scaling.factor")?.or(older);
    let factor = factor.filter(|factor| *factor != 0.0);
    // A type that is not said is linear, and `none` is none whatever the factor.
    let kind = match (kind, factor) {
        (Some("linear") | None, None | Some(1.0)) => "none",
        (kind, _) => kind.unwrap_or("linear"),
    };
    let divisors = |name: &str| -> Result<Option<Vec<f64>>> {
        let values = numbers(name)?;
        Ok(values.map(|all| all.into_iter().map(f64::from).collect()))
    };
    let (all, short, long) = (
        divisors("rope_freqs.weight")?,
        divisors("rope_factors_short.weight")?,
        divisors("rope_factors_long.weight")?,
    );
    let (short, long) = (short.or(all.clone()), long.or(all));
    let positions = size(json, "max_position_embeddings");
    let scaling = match (short, long, kind) {
        (Some(short), Some(long), "none" | "longrope") => {
            let sharper = fields.real("rope.scaling.attn_factor")?;
            let original = original.or(positions);
            json.insert("original_max_position_embeddings".into(), json!(original));
            json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "attention_factor": sharper.unwrap_or(1.0),
            })
        }
        (None, None, "none") => return Ok(()),
        (None, None, "linear") => json!({ "rope_type": "linear", "factor": factor }),
        (None, None, "yarn") => yarn(fields, factor, original)?,
        (_, _, kind) => {
            return Err(fields.bad(format!(
                "rope scaling `{kind}` with these tensors is not supported"
            )));
        }
    };
    json.insert("rope_scaling".into(), scaling);
    Ok(())
}

/// YaRN's fields. ggml multiplies what follows from the factor by the factors for attention.
fn yarn(fields: &mut Fields<'_>, factor: Option<f64>, original: Option<u64>) -> Result<Json> {
    let names = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"];
    let mut sharper: Option<f64> = None;
    for name in names {
        let more = fields.real(name)?;
        sharper = more.map(|more| more * sharper.unwrap_or(1.0)).or(sharper);
    }
    let own = |factor: f64| 0.1 * factor.max(1.0).ln() + 1.0;
    let sharper = sharper.zip(factor).map(|(more, factor)| more * own(factor));
    Ok(json!({
        "rope_type": "yarn", "factor": factor, "attention_factor": sharper,
        "original_max_position_embeddings": original,
        "beta_fast": fields.real("rope.scaling.yarn_beta_fast")?,
        "beta_slow": fields.real("rope.scaling.yarn_beta_slow")?,
    }))
}

/// The order of rows in the file for the tensor called `name` in a checkpoint: ggml's llama rotates
/// neighbouring values as a pair, and its GPT-NeoX splits q, k and v.
pub(super) fn order(config: &Config, ggml: &str) -> RowOrder {
    let heads = &config.attention;
    let role = ggml.rsplit('.').nth(1).unwrap_or_default();
    let paired = matches!(config.model_type.as_str(), "llama" | "mistral");
    match (role, heads.qkv) {
        ("attn_q", Qkv::Separate) if paired => RowOrder::Pairs(heads.heads),
        ("attn_k", Qkv::Separate) if paired => RowOrder::Pairs(heads.kv_heads),
        ("attn_qkv", Qkv::Interleaved) => RowOrder::Parts(heads.heads),
        _ => RowOrder::Plain,
    }
}
