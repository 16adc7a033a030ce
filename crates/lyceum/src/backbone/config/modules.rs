//! The module names of every family's checkpoints.

use super::layout::{Qkv, Up};

/// The module names of a checkpoint; names that a family has no use for are empty.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::backbone) struct Modules {
    /// The decoder without its head.
    pub(in crate::backbone) root: &'static str,
    /// Token embedding.
    pub(in crate::backbone) tokens: &'static str,
    /// Learned positions.
    pub(in crate::backbone) positions: &'static str,
    /// The list of blocks.
    pub(in crate::backbone) blocks: &'static str,
    /// Norm before attention.
    pub(in crate::backbone) attention_norm: &'static str,
    /// Norm before the MLP.
    pub(in crate::backbone) mlp_norm: &'static str,
    /// Norm over what attention gives.
    pub(in crate::backbone) after_attention: &'static str,
    /// Norm over what the MLP gives.
    pub(in crate::backbone) after_mlp: &'static str,
    /// q, k and v, or the one matrix for all.
    pub(in crate::backbone) qkv: Qkv<&'static str>,
    /// Norms of the heads of q and of k.
    pub(in crate::backbone) qk_norms: [&'static str; 2],
    /// Output of attention.
    pub(in crate::backbone) out: &'static str,
    /// Gate and up, the one matrix for both, or up alone.
    pub(in crate::backbone) up: Up<&'static str>,
    /// Output of the MLP.
    pub(in crate::backbone) down: &'static str,
    /// The last norm.
    pub(in crate::backbone) norm: &'static str,
    /// The head; not below the root.
    pub(in crate::backbone) head: &'static str,
}

pub(super) const LLAMA: Modules = Modules {
    root: "model",
    tokens: "embed_tokens",
    positions: "",
    blocks: "layers",
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    after_attention: "",
    after_mlp: "",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    out: "self_attn.o_proj",
    up: Up::Gated(["mlp.gate_proj", "mlp.up_proj"]),
    down: "mlp.down_proj",
    norm: "norm",
    head: "lm_head",
};

pub(super) const GEMMA2: Modules = Modules {
    mlp_norm: "pre_feedforward_layernorm",
    after_attention: "post_attention_layernorm",
    after_mlp: "post_feedforward_layernorm",
    ..LLAMA
};

pub(super) const PHI3: Modules = Modules {
    qkv: Qkv::Fused("self_attn.qkv_proj"),
    up: Up::Fused("mlp.gate_up_proj"),
    ..LLAMA
};

pub(super) const STARCODER2: Modules = Modules {
    up: Up::Plain("mlp.c_fc"),
    down: "mlp.c_proj",
    ..LLAMA
};

pub(super) const PHI: Modules = Modules {
    mlp_norm: "",
    qk_norms: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
    out: "self_attn.dense",
    up: Up::Plain("mlp.fc1"),
    down: "mlp.fc2",
    norm: "final_layernorm",
    ..LLAMA
};

pub(super) const GPT2: Modules = Modules {
    root: "transformer",
    tokens: "wte",
    positions: "wpe",
    blocks: "h",
    attention_norm: "ln_1",
    mlp_norm: "ln_2",
    after_attention: "",
    after_mlp: "",
    qkv: Qkv::Fused("attn.c_attn"),
    qk_norms: ["", ""],
    out: "attn.c_proj",
    up: Up::Plain("mlp.c_fc"),
    down: "mlp.c_proj",
    norm: "ln_f",
    head: "lm_head",
};

pub(super) const GPT_NEO: Modules = Modules {
    qkv: Qkv::Separate([
        "attn.attention.q_proj",
        "attn.attention.k_proj",
        "attn.attention.v_proj",
    ]),
    out: "attn.attention.out_proj",
    ..GPT2
};

pub(super) const GPT_NEOX: Modules = Modules {
    root: "gpt_neox",
    tokens: "embed_in",
    positions: "",
    blocks: "layers",
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    after_attention: "",
    after_mlp: "",
    qkv: Qkv::Interleaved("attention.query_key_value"),
    qk_norms: ["", ""],
    out: "attention.dense",
    up: Up::Plain("mlp.dense_h_to_4h"),
    down: "mlp.dense_4h_to_h",
    norm: "final_layer_norm",
    head: "embed_out",
};
