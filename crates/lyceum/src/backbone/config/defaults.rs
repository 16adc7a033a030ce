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
