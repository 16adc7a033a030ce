//! From ggml's names of tensors to the checkpoint's.

use super::super::config::Config;
use super::super::config::layout::{Qkv, Up};

/// The checkpoint's name of the tensor that a GGUF file calls `name`, if there is one.
pub(super) fn name(config: &Config, name: &str) -> Option<String> {
    let (path, end) = name.rsplit_once('.')?;
    let modules = config.modules;
    let module = match path.strip_prefix("blk.") {
        Some(inner) => {
            let (block, role) = inner.split_once('.')?;
            let module = in_block(config, role)?;
            config.in_block(block.parse().ok()?, module)
        }
        None => match path {
            "token_embd" => config.in_root(modules.tokens),
            "position_embd" => config.in_root(modules.positions),
            "output_norm" => config.in_root(modules.norm),
            "output" => modules.head.into(),
            _ => return None,
        },
    };
    Some(format!("{module}.{end}"))
}

fn in_block(config: &Config, role: &str) -> Option<&'static str> {
    let names = config.modules;
    let module = match (role, &names.qkv, &names.up) {
        ("attn_norm", ..) => names.attention_norm,
        ("ffn_norm", ..) => names.mlp_norm,
        ("post_attention_norm", ..) => names.after_attention,
        ("post_ffw_norm", ..) => names.after_mlp,
        ("attn_q", Qkv::Separate([q, _, _]), _) => q,
        ("attn_k", Qkv::Separate([_, k, _]), _) => k,
        ("attn_v", Qkv::Separate([_, _, v]), _) => v,
        ("attn_qkv", Qkv::Fused(all) | Qkv::Interleaved(all), _) => all,
        ("attn_q_norm", ..) => names.qk_norms[0],
        ("attn_k_norm", ..) => names.qk_norms[1],
        ("attn_output", ..) => names.out,
        ("ffn_gate", _, Up::Gated([gate, _])) => gate,
        ("ffn_up", _, Up::Gated([_, up]) | Up::Plain(up) | Up::Fused(up)) => up,
        ("ffn_down", ..) => names.down,
        _ => return None,
    };
    (!module.is_empty()).then_some(module)
}
