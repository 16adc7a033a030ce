//! Default values of the fields of every family's `config.json`, and the meaning of null.
//!
//! Absent is not null: a Gemma 2 without `attn_logit_softcapping` caps its scores at 50, one whose
//! field is null does not. Source: the configuration classes of transformers 5.24; a test compares
//! every row with what they say (`golden/families/defaults.json`).

use serde_json::{Value, json};

/// One field of one family.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) field: &'static str,
    pub(super) absent: Absent,
    pub(super) null: Null,
}

/// The value of an absent field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Absent {
    /// None, or what the family's reader makes of other fields.
    None,
    Whole(usize),
    Real(f64),
    Flag(bool),
    Text(&'static str),
}

/// The meaning of a field that is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Null {
    /// None: no cap, no window, as many heads as there are.
    None,
    /// The value of an absent field.
    Absent,
    /// Nothing; the reference fails.
    Refused,
}

impl Absent {
    /// As JSON.
    pub(super) fn value(self) -> Value {
        match self {
            Absent::None => Value::Null,
            Absent::Whole(n) => json!(n),
            Absent::Real(x) => json!(x),
            Absent::Flag(flag) => json!(flag),
            Absent::Text(text) => json!(text),
        }
    }
}

const fn whole(field: &'static str, n: usize) -> Row {
    Row {
        field,
        absent: Absent::Whole(n),
        null: Null::Refused,
    }
}

/// A whole number that null switches off.
const fn whole_or_none(field: &'static str, n: usize) -> Row {
    Row {
        field,
        absent: Absent::Whole(n),
        null: Null::None,
    }
}

const fn real(field: &'static str, x: f64) -> Row {
    Row {
        field,
        absent: Absent::Real(x),
        null: Null::Refused,
    }
}

/// A number that null switches off.
const fn real_or_none(field: &'static str, x: f64) -> Row {
    Row {
        field,
        absent: Absent::Real(x),
        null: Null::None,
    }
}

/// Null is as good as false, but never as good as true.
const fn flag(field: &'static str, on: bool) -> Row {
    Row {
        field,
        absent: Absent::Flag(on),
        null: match on {
            true => Null::Refused,
            false => Null::None,
        },
    }
}

const fn text(field: &'static str, text: &'static str) -> Row {
    Row {
        field,
        absent: Absent::Text(text),
        null: Null::Refused,
    }
}

/// Absent and null alike: none, or made of other fields.
const fn none(field: &'static str) -> Row {
    Row {
        field,
        absent: Absent::None,
        null: Null::Absent,
    }
}

pub(super) const GPT2: &[Row] = &[
    whole("vocab_size", 50_257),
    whole("n_positions", 1024),
    whole("n_embd", 768),
    whole("n_layer", 12),
    whole("n_head", 12),
    none("n_inner"),
    text("activation_function", "gelu_new"),
    real("layer_norm_epsilon", 1e-5),
    flag("scale_attn_weights", true),
    flag("scale_attn_by_inverse_layer_idx", false),
    flag("tie_word_embeddings", true),
];

pub(super) const GPT_NEO: &[Row] = &[
    whole("vocab_size", 50_257),
    whole("max_position_embeddings", 2048),
    whole("hidden_size", 2048),
    whole("num_layers", 24),
    // [[["global", "local"], 12]]
    none("attention_types"),
    whole("num_heads", 16),
    none("intermediate_size"),
    whole("window_size", 256),
    text("activation_function", "gelu_new"),
    real("layer_norm_epsilon", 1e-5),
    flag("tie_word_embeddings", true),
];

pub(super) const GPT_NEOX: &[Row] = &[
    whole("vocab_size", 50_432),
    whole("hidden_size", 6144),
    whole("num_hidden_layers", 44),
    whole("num_attention_heads", 64),
    whole("intermediate_size", 24_576),
    text("hidden_act", "gelu"),
    whole("max_position_embeddings", 2048),
    real("layer_norm_eps", 1e-5),
    flag("tie_word_embeddings", false),
    flag("use_parallel_residual", true),
    flag("attention_bias", true),
    real("rotary_pct", 0.25),
    real("rotary_emb_base", 10_000.0),
];

pub(super) const PHI: &[Row] = &[
    whole("vocab_size", 51_200),
    whole("hidden_size", 2048),
    whole("intermediate_size", 8192),
    whole("num_hidden_layers", 24),
    whole("num_attention_heads", 32),
    none("num_key_value_heads"),
    none("head_dim"),
    text("hidden_act", "gelu_new"),
    whole("max_position_embeddings", 2048),
    real("layer_norm_eps", 1e-5),
    flag("tie_word_embeddings", false),
    flag("qk_layernorm", false),
    real("rope_theta", 10_000.0),
    real("partial_rotary_factor", 0.5),
];

pub(super) const PHI3: &[Row] = &[
    whole("vocab_size", 32_064),
    whole("hidden_size", 3072),
    whole("intermediate_size", 8192),
    whole("num_hidden_layers", 32),
    whole("num_attention_heads", 32),
    none("num_key_value_heads"),
    none("head_dim"),
    text("hidden_act", "silu"),
    whole("max_position_embeddings", 4096),
    whole("original_max_position_embeddings", 4096),
    real("rms_norm_eps", 1e-5),
    flag("tie_word_embeddings", false),
    real("rope_theta", 10_000.0),
    real("partial_rotary_factor", 1.0),
    none("sliding_window"),
];

pub(super) const LLAMA: &[Row] = &[
    whole("vocab_size", 32_000),
    whole("hidden_size", 4096),
    whole("intermediate_size", 11_008),
    whole("num_hidden_layers", 32),
    whole("num_attention_heads", 32),
    none("num_key_value_heads"),
    none("head_dim"),
    text("hidden_act", "silu"),
    whole("max_position_embeddings", 2048),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", false),
    flag("attention_bias", false),
    flag("mlp_bias", false),
    real("rope_theta", 10_000.0),
];

pub(super) const MISTRAL: &[Row] = &[
    whole("vocab_size", 32_000),
    whole("hidden_size", 4096),
    whole("intermediate_size", 14_336),
    whole("num_hidden_layers", 32),
    whole("num_attention_heads", 32),
    whole_or_none("num_key_value_heads", 8),
    none("head_dim"),
    text("hidden_act", "silu"),
    whole("max_position_embeddings", 131_072),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", false),
    real("rope_theta", 10_000.0),
    whole_or_none("sliding_window", 4096),
];

pub(super) const QWEN2: &[Row] = &[
    whole("vocab_size", 151_936),
    whole("hidden_size", 4096),
    whole("intermediate_size", 22_016),
    whole("num_hidden_layers", 32),
    whole("num_attention_heads", 32),
    whole_or_none("num_key_value_heads", 32),
    none("head_dim"),
    text("hidden_act", "silu"),
    whole("max_position_embeddings", 32_768),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", false),
    real("rope_theta", 10_000.0),
    flag("use_sliding_window", false),
    whole_or_none("sliding_window", 4096),
    whole("max_window_layers", 28),
    none("layer_types"),
];

pub(super) const QWEN3: &[Row] = &[
    whole("vocab_size", 151_936),
    whole("hidden_size", 4096),
    whole("intermediate_size", 22_016),
    whole("num_hidden_layers", 32),
    whole("num_attention_heads", 32),
    whole_or_none("num_key_value_heads", 32),
    whole("head_dim", 128),
    text("hidden_act", "silu"),
    whole("max_position_embeddings", 32_768),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", false),
    flag("attention_bias", false),
    real("rope_theta", 10_000.0),
    flag("use_sliding_window", false),
    whole_or_none("sliding_window", 4096),
    whole("max_window_layers", 28),
    none("layer_types"),
];

pub(super) const STARCODER2: &[Row] = &[
    whole("vocab_size", 49_152),
    whole("hidden_size", 3072),
    whole("intermediate_size", 12_288),
    whole("num_hidden_layers", 30),
    whole("num_attention_heads", 24),
    whole("num_key_value_heads", 2),
    none("head_dim"),
    text("hidden_act", "gelu_pytorch_tanh"),
    whole("max_position_embeddings", 4096),
    real("norm_epsilon", 1e-5),
    flag("tie_word_embeddings", true),
    flag("use_bias", true),
    real("rope_theta", 10_000.0),
    none("sliding_window"),
];

pub(super) const GEMMA: &[Row] = &[
    whole("vocab_size", 256_000),
    whole("hidden_size", 3072),
    whole("intermediate_size", 24_576),
    whole("num_hidden_layers", 28),
    whole("num_attention_heads", 16),
    whole("num_key_value_heads", 16),
    whole("head_dim", 256),
    text("hidden_act", "gelu_pytorch_tanh"),
    whole("max_position_embeddings", 8192),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", true),
    flag("attention_bias", false),
    real("rope_theta", 10_000.0),
];

pub(super) const GEMMA2: &[Row] = &[
    whole("vocab_size", 256_000),
    whole("hidden_size", 2304),
    whole("intermediate_size", 9216),
    whole("num_hidden_layers", 26),
    whole("num_attention_heads", 8),
    whole("num_key_value_heads", 4),
    whole("head_dim", 256),
    text("hidden_activation", "gelu_pytorch_tanh"),
    whole("max_position_embeddings", 8192),
    real("rms_norm_eps", 1e-6),
    flag("tie_word_embeddings", true),
    flag("attention_bias", false),
    real("rope_theta", 10_000.0),
    real("query_pre_attn_scalar", 256.0),
    whole_or_none("sliding_window", 4096),
    none("layer_types"),
    real_or_none("attn_logit_softcapping", 50.0),
    real_or_none("final_logit_softcapping", 30.0),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backbone::Config;
    use crate::backbone::family::defaults;

    /// All fields of every family as transformers has them when nothing is said, by version.
    fn told() -> BTreeMap<String, BTreeMap<String, Value>> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = std::fs::read(root.join("tests/golden/families/defaults.json")).unwrap();
        serde_json::from_slice(&read).unwrap()
    }

    fn parse(config: &Value) -> Result<Config, String> {
        let parsed = Config::parse(config.to_string().as_bytes(), "config.json");
        parsed.map_err(|e| e.to_string())
    }

    fn with(config: &Value, field: &str, value: Option<Value>) -> Value {
        let mut config = config.clone();
        let fields = config.as_object_mut().unwrap();
        fields.remove(field);
        if let Some(value) = value {
            fields.insert(field.into(), value);
        }
        config
    }

    #[test]
    fn every_row_is_what_transformers_says() {
        let all = told();
        for (family, rows) in defaults() {
            let (old, new) = (&all["4.57.6"][family], &all["5.24.0"][family]);
            for row in rows
                .iter()
                .filter(|row| !matches!(row.absent, Absent::None))
            {
                let field = row.field;
                let places = [&new[field], &new["rope_parameters"][field], &old[field]];
                // Qwen's window is off unless it is switched on.
                let off = family.starts_with("qwen") && field == "sliding_window";
                let want = places.into_iter().find(|value| !value.is_null());
                let same = |want: &Value| match want.as_f64() {
                    Some(x) => row.absent.value().as_f64() == Some(x),
                    None => *want == row.absent.value(),
                };
                assert!(off || want.is_some_and(same), "{family} {field}: {want:?}");
            }
        }
    }

    #[test]
    fn leaving_fields_out_is_writing_what_transformers_takes() {
        for (version, families) in told() {
            for (family, rows) in defaults() {
                let whole = &families[family];
                let config = parse(whole).unwrap();
                assert_eq!(config.notes, [""; 0], "{family} {version}");
                // All of them at once, and one at a time.
                let bare = json!({ "model_type": family, "vocab_size": config.vocab_size });
                assert_eq!(parse(&bare).unwrap(), config, "{family} {version}");
                for row in rows {
                    let left = parse(&with(whole, row.field, None)).unwrap();
                    assert_eq!(left, config, "{family} {version} {}", row.field);
                }
            }
        }
    }

    #[test]
    fn null_is_none_where_transformers_means_none_and_refused_elsewhere() {
        for (family, rows) in defaults() {
            let mut whole = told()["5.24.0"][family].clone();
            if family.starts_with("qwen") {
                // What says how windows lie is read where they are switched on.
                whole = with(&whole, "use_sliding_window", Some(json!(true)));
                whole = with(&whole, "layer_types", None);
            }
            let config = parse(&whole).unwrap();
            for row in rows {
                let nulled = parse(&with(&whole, row.field, Some(Value::Null)));
                let case = format!("{family} {}: {nulled:?}", row.field);
                match (row.null, nulled) {
                    (Null::Refused, nulled) => {
                        assert!(nulled.unwrap_err().contains(row.field), "{case}");
                    }
                    (Null::Absent, nulled) => assert_eq!(nulled.unwrap(), config, "{case}"),
                    // Gemma 2's layers slide whatever the window says, so there must be one.
                    (Null::None, Err(why)) => assert!(why.contains("sliding_window"), "{case}"),
                    (Null::None, Ok(_)) => {}
                }
            }
        }
        let gemma = |cap: Option<Value>| {
            let whole = &told()["5.24.0"]["gemma2"];
            parse(&with(whole, "attn_logit_softcapping", cap)).unwrap()
        };
        assert_eq!(gemma(None).attention.soft_cap, Some(50.0));
        assert_eq!(gemma(Some(Value::Null)).attention.soft_cap, None);
        let mistral = |window: Option<Value>| {
            let whole = &told()["5.24.0"]["mistral"];
            parse(&with(whole, "sliding_window", window))
                .unwrap()
                .layers[0]
                .window
        };
        assert_eq!(mistral(None), Some(4096));
        assert_eq!(mistral(Some(Value::Null)), None);
    }
}
