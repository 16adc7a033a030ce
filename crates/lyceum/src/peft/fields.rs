//! The fields of `adapter_config.json`: honoured, without effect, or refused by name.

use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Fields that say nothing about what a trained adapter computes: bookkeeping, and settings of
/// training or initialisation. So is every field whose name begins with `_`.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    // Ties the adapters of tied modules while training; only embedding and head are ever tied.
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    // ms-swift's: the type and the learning rates of training.
    "lora_dtype",
    "lora_ga_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    // PEFT before 0.3: whether it adds the update to the base's weights while evaluating.
    "merge_weights",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "velora_config",
];

/// Fields honoured by `Config`.
const HONOURED: &[&str] = &[
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Fields that change what an adapter computes in a way that is not supported, and how.
const REFUSED: &[(&str, &str)] = &[
    ("use_dora", "DoRA rescales the base's own weights"),
    ("lora_bias", "lora_bias adds biases to the adapters"),
    ("enable_lora", "it adapts parts of a fused layer"),
    ("layer_replication", "it repeats layers of the base"),
    (
        "trainable_token_indices",
        "it replaces rows of the embedding",
    ),
    ("megatron_config", "it is for Megatron's parallel layers"),
    (
        "target_parameters",
        "it adapts bare parameters, not linears",
    ),
    (
        "alora_invocation_tokens",
        "activated LoRA adapts only some tokens",
    ),
    (
        "arrow_config",
        "it routes between adapters; import each of them",
    ),
    ("kasa_config", "KaSA truncates the base's own weights"),
    ("use_qalora", "QALoRA pools the inputs"),
    ("use_bdlora", "its factors are block-diagonal"),
    ("monteclora_config", "it samples its factors"),
];

/// Initialisations that leave the base as it was.
const INITIALISERS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// The fields of a JSON object, in our words where it is none.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    if let Some(why) = crate::file::stand_in(bytes) {
        return Err(Error::invalid(why));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::invalid("it is UTF-16: save it as UTF-8"));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(text).map_err(|e| {
        let at = format!("line {}, column {}", e.line(), e.column());
        Error::invalid(match e.classify() {
            Category::Eof => format!("it ends in the middle ({at}): it was not written whole"),
            Category::Data => "it is JSON, but no object".to_owned(),
            Category::Syntax | Category::Io => format!("it is not JSON ({at})"),
        })
    })
}

/// Refuses what cannot be honoured, by name.
pub(super) fn refuse(fields: &Map<String, Value>) -> Result<()> {
    let kind = fields.get("peft_type").and_then(Value::as_str);
    if kind != Some("LORA") {
        let kind = kind.unwrap_or("absent");
        return Err(wrong(
            "peft_type",
            &format!("is {kind}; only LORA can be imported"),
        ));
    }
    match fields.get("bias").map_or(Some("none"), Value::as_str) {
        Some("none") => {}
        _ => {
            return Err(wrong(
                "bias",
                "trains biases of the base; only `none` can be imported",
            ));
        }
    }
    if let Some((name, why)) = REFUSED
        .iter()
        .find(|(name, _)| fields.get(*name).is_some_and(set))
    {
        return Err(wrong(
            name,
            &format!("is set, which cannot be imported: {why}"),
        ));
    }
    let known = |name: &str| {
        let refused = REFUSED.iter().any(|(refused, _)| *refused == name);
        refused || HARMLESS.contains(&name) || HONOURED.contains(&name) || name.starts_with('_')
    };
    if let Some((name, _)) = fields
        .iter()
        .find(|(name, value)| !known(name) && set(value))
    {
        return Err(wrong(name, "is set, and this version does not know it"));
    }
    match fields.get("init_lora_weights").unwrap_or(&Value::Null) {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(text) if INITIALISERS.contains(&text.as_str()) => Ok(()),
        other => Err(wrong(
            "init_lora_weights",
            &format!(
                "is {other}, which changes the base's own weights; let PEFT convert the adapter \
                 (save_pretrained with path_initial_model_for_weight_conversion)"
            ),
        )),
    }
}

/// True if a field holds anything but PEFT's way of saying no.
fn set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The error for a field.
pub(super) fn wrong(field: &str, why: &str) -> Error {
    Error::invalid(format!("`{field}` {why}"))
}
