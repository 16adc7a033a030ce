//! From the fields of a GGUF file to the description of its decoder.
//!
//! The fields are put into the words of a `config.json` and read by the family's own reader, so
//! the same things are checked and refused. What ggml's files leave out is what their programs
//! take for granted: Gemma's activation, for one.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::super::config::{Config, Qkv};
use super::super::family;
use super::super::stored::Order;
use super::file::{Header, Value};
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

/// Fields that say again what others say, or nothing about the computation.
const IDLE: &[&str] = &[
    "vocab_size",
    "tensor_data_layout",
    "source_tensor_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "attention.key_length_swa",
];

/// The fields below the architecture's name that were not taken yet.
struct Fields<'a> {
    what: &'a str,
    arch: &'a str,
    map: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> Fields<'a> {
    fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::format(self.what, why)
    }

    fn whole(&mut self, name: &str) -> Result<Option<u64>> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Value::Whole(n @ 0..=0xffff_ffff)) => Ok(Some(n as u64)),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    fn need(&mut self, name: &str) -> Result<u64> {
        let found = self.whole(name)?;
        found.ok_or_else(|| self.bad(format!("field `{}.{name}` is missing", self.arch)))
    }

    fn real(&mut self, name: &str) -> Result<Option<f64>> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Value::Real(x)) => Ok(Some(meant(x))),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<&'a str>> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    fn odd(&self, name: &str, value: Value<'_>) -> Error {
        let kind = match value {
            Value::List(list) => format!("a list of {}", list.len()),
            other => format!("{other:?}"),
        };
        self.bad(format!(
            "field `{}.{name}` is {kind}, which is not supported",
            self.arch
        ))
    }

    /// Refuses whatever was not taken and might change the computation.
    fn finish(mut self) -> Result<()> {
        IDLE.iter().for_each(|name| {
            self.map.remove(name);
        });
        let off = |name: &str, value: &Value<'_>| match name {
            "attention.causal" => *value == Value::Bool(true),
            "expert_count" | "expert_used_count" => *value == Value::Whole(0),
            _ => false,
        };
        self.map.retain(|name, value| !off(name, value));
        match self.map.iter().next() {
            None => Ok(()),
            Some((name, value)) => {
                let (arch, value) = (self.arch, *value);
                let shown = match value {
                    Value::List(list) => format!("a list of {}", list.len()),
                    other => format!("{other:?}").chars().take(40).collect(),
                };
                Err(self.bad(format!(
                    "field `{arch}.{name}` ({shown}) is not known and may change what is computed"
                )))
            }
        }
    }
}

/// The description of the decoder in the file, which errors call `what`. `numbers` gives the
/// values of a small tensor.
pub(super) fn config(
    what: &str,
    header: &Header<'_>,
    numbers: impl Fn(&str) -> Result<Option<Vec<f32>>>,
) -> Result<Config> {
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
    let mut fields = Fields {
        what,
        arch,
        map: below(header, arch),
    };
    let mut json = Map::new();
    let model_type = match fields.map.contains_key("attention.sliding_window") && *arch == "llama" {
        true => "mistral",
        false => family,
    };
    json.insert("model_type".into(), model_type.into());
    sizes(&mut fields, header, model_type, &mut json)?;
    if model_type != "gpt2" {
        rope(&mut fields, &mut json, &numbers)?;
    }
    fields.finish()?;
    let mut config = family::config(what, Json::Object(json))?;
    // ggml keeps matrices as they are multiplied, and Gemma's norms with the one added.
    config.transposed = false;
    config.norm.plus_one = false;
    Ok(config)
}

/// The shortest number that rounds to the f32 in the file: 1e-5, as `config.json` has it.
fn meant(x: f64) -> f64 {
    let short = x as f32;
    match f64::from(short) == x {
        true => short.to_string().parse().unwrap_or(x),
        false => x,
    }
}

/// The fields below `arch`.
fn below<'a>(header: &Header<'a>, arch: &str) -> BTreeMap<&'a str, Value<'a>> {
    let own = header.fields.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(arch)?.strip_prefix('.')?;
        Some((name, *value))
    });
    own.collect()
}

fn sizes(
    fields: &mut Fields<'_>,
    header: &Header<'_>,
    model_type: &str,
    json: &mut Map<String, Json>,
) -> Result<()> {
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
    let values = fields.whole("attention.value_length")?;
    if values.is_some() && values != dim {
        return Err(fields.bad("keys and values of different widths are not supported"));
    }
    let layer = fields.real("attention.layer_norm_epsilon")?;
    let rms = fields.real("attention.layer_norm_rms_epsilon")?;
    let inner = fields.need("feed_forward_length")?;
    let context = fields.need("context_length")?;
    let has = |name: &str| header.tensors.contains_key(name);
    let tied = !has("output.weight");
    let mut put = |name: &str, value: Json| {
        json.insert(name.into(), value);
    };
    put("vocab_size", (*vocabulary).into());
    put("tie_word_embeddings", tied.into());
    if model_type == "gpt2" {
        put("n_embd", width.into());
        put("n_layer", blocks.into());
        put("n_head", heads.into());
        put("n_inner", inner.into());
        put("n_positions", context.into());
        put("layer_norm_epsilon", json!(layer));
        return Ok(());
    }
    put("hidden_size", width.into());
    put("num_hidden_layers", blocks.into());
    put("num_attention_heads", heads.into());
    put("intermediate_size", inner.into());
    put("max_position_embeddings", context.into());
    match model_type {
        "gpt_neox" => {
            put("layer_norm_eps", json!(layer));
            put("attention_bias", has("blk.0.attn_qkv.bias").into());
            let parallel = match fields.map.remove("use_parallel_residual") {
                None => true,
                Some(Value::Bool(parallel)) => parallel,
                Some(other) => return Err(fields.odd("use_parallel_residual", other)),
            };
            put("use_parallel_residual", parallel.into());
        }
        "phi" => {
            put("layer_norm_eps", json!(layer));
            put("num_key_value_heads", groups.into());
        }
        _ => {
            put("rms_norm_eps", json!(rms));
            put("num_key_value_heads", groups.into());
            put("head_dim", json!(dim));
        }
    }
    let window = fields.whole("attention.sliding_window")?;
    match model_type {
        "llama" | "qwen3" | "gemma" => {
            put("attention_bias", has("blk.0.attn_q.bias").into());
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
            let scalar = match blocks {
                46 => width / heads.max(1),
                _ => dim.unwrap_or(256),
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
    if let Some(turning) = fields.whole("rope.dimension_count")?
        && turning != dim
    {
        // Half a value more, so that the family's reader finds the whole number again.
        let part = (turning as f64 + 0.5) / dim.max(1) as f64;
        json.insert("partial_rotary_factor".into(), part.into());
    }
    if let Some(theta) = fields.real("rope.freq_base")? {
        json.insert("rope_theta".into(), theta.into());
    }
    let original = match fields.map.get("rope.scaling.original_context_length") {
        Some(Value::Whole(n @ 1..=0xffff_ffff)) => Some(*n as u64),
        _ => None,
    };
    let sharper = match fields.map.get("rope.scaling.attn_factor") {
        Some(Value::Real(x)) => Some(meant(*x)),
        _ => None,
    };
    let factor = fields.real("rope.scaling.factor")?;
    let kind = fields.text("rope.scaling.type")?.unwrap_or("none");
    // An older name for a linear factor.
    let older = fields.real("rope.scale_linear")?;
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
    let scaling = match (short, long, kind) {
        (Some(short), Some(long), "none" | "longrope") => json!({
            "rope_type": "longrope", "short_factor": short, "long_factor": long,
            "attention_factor": sharper.unwrap_or(1.0),
            "original_max_position_embeddings":
                original.or(size(json, "max_position_embeddings")),
        }),
        (None, None, "none") => match older.or(factor).filter(|factor| *factor != 1.0) {
            None => return Ok(()),
            Some(factor) => json!({ "rope_type": "linear", "factor": factor }),
        },
        (None, None, "linear") => json!({ "rope_type": "linear", "factor": factor }),
        (None, None, "yarn") => json!({
            "rope_type": "yarn", "factor": factor, "attention_factor": sharper,
            "original_max_position_embeddings": original,
        }),
        (_, _, kind) => {
            return Err(fields.bad(format!(
                "rope scaling `{kind}` with these tensors is not supported"
            )));
        }
    };
    json.insert("rope_scaling".into(), scaling);
    Ok(())
}

/// How the file keeps the rows of the tensor that is `name` in a checkpoint: ggml's llama turns
/// neighbouring values as a pair, and its GPT-NeoX splits q, k and v.
pub(super) fn order(config: &Config, ggml: &str) -> Order {
    let heads = &config.attention;
    let role = ggml.rsplit('.').nth(1).unwrap_or_default();
    let paired = matches!(config.model_type.as_str(), "llama" | "mistral");
    match (role, heads.qkv) {
        ("attn_q", Qkv::Separate) if paired => Order::Pairs(heads.heads),
        ("attn_k", Qkv::Separate) if paired => Order::Pairs(heads.kv_heads),
        ("attn_qkv", Qkv::Interleaved) => Order::Parts(heads.heads),
        _ => Order::Plain,
    }
}
