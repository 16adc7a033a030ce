//! From ggml's names of tensors to the checkpoint's.

use super::super::config::{Config, MlpShape, Modules};

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
    let &Modules {
        attention_norm,
        mlp_norm,
        after_attention,
        after_mlp,
        qkv,
        qk_norms,
        out,
        up,
        down,
        ..
    } = config.modules;
    let gated = config.mlp.shape == MlpShape::Gated;
    let separate = |i: usize| (qkv.len() == 3).then(|| qkv[i]);
    let module = match role {
        "attn_norm" => attention_norm,
        "ffn_norm" => mlp_norm,
        "post_attention_norm" => after_attention,
        "post_ffw_norm" => after_mlp,
        "attn_q" => separate(0)?,
        "attn_k" => separate(1)?,
        "attn_v" => separate(2)?,
        "attn_qkv" if qkv.len() == 1 => qkv[0],
        "attn_q_norm" => qk_norms.first()?,
        "attn_k_norm" => qk_norms.get(1)?,
        "attn_output" => out,
        "ffn_gate" if gated => up.first()?,
        "ffn_up" => up.get(usize::from(gated))?,
        "ffn_down" => down,
        _ => return None,
    };
    (!module.is_empty()).then_some(module)
}
