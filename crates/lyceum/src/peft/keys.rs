//! The kinds of tensors in an adapter's file, told by their names.
//!
//! PEFT writes `base_model.model.PATH.lora_A.weight`. Files saved around PEFT keep more: the
//! adapter's name (`lora_A.default.weight`), and what DDP, DeepSpeed, FSDP, `torch.compile` and
//! activation checkpointing put around modules.

use crate::error::{Error, Result};

/// Parts of a path that wrappers put into it, anywhere.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// Modules that turn hidden states into logits or classes.
const HEADS: [&str; 4] = ["lm_head", "embed_out", "score", "classifier"];

/// One of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

/// The kind of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A factor of the adapter of the linear at `path`, of the adapter with this name, if any.
    Factor {
        path: String,
        half: Half,
        adapter: Option<String>,
    },
    /// A whole tensor of the base, saved along.
    Copy { tensor: String },
}

/// Tells the kind of the tensor called `name`.
///
/// # Errors
/// [`Error::Mismatch`] when it is nothing an expert can have, saying what to do.
pub(super) fn key(name: &str) -> Result<Key> {
    let parts: Vec<&str> = name.split('.').filter(|p| !WRAPPERS.contains(p)).collect();
    let parts = unwrapped(&parts);
    let refuse = |why: &str| Err(Error::Mismatch(format!("tensor `{name}` {why}")));
    let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) else {
        return whole(parts).map_or_else(refuse, |tensor| Ok(Key::Copy { tensor }));
    };
    let half = match parts[at] {
        "lora_A" => Half::A,
        "lora_B" => Half::B,
        "lora_magnitude_vector" => return refuse("is a DoRA magnitude, which cannot be imported"),
        "lora_embedding_A" | "lora_embedding_B" => {
            return refuse(
                "adapts an embedding, which no expert does: train without it in target_modules, or \
                 merge the adapter into its base (merge_and_unload) and use that as a base",
            );
        }
        _ => return refuse("is not a LoRA factor of a linear layer"),
    };
    let adapter = match &parts[at + 1..] {
        ["weight"] => None,
        [adapter, "weight"] => Some((*adapter).to_owned()),
        [.., "bias"] => return refuse("is a bias (lora_bias), which cannot be imported"),
        _ => return refuse("is not a LoRA factor of a linear layer"),
    };
    match parts[..at].last() {
        None => refuse("names no layer"),
        Some(last) if HEADS.contains(last) => refuse(
            "adapts the head, which no expert does: train without it in target_modules, or merge \
             the adapter into its base (merge_and_unload) and use that as a base",
        ),
        Some(_) => Ok(Key::Factor {
            path: parts[..at].join("."),
            half,
            adapter,
        }),
    }
}

/// Without what PEFT, DDP and DeepSpeed put before a path.
fn unwrapped<'p, 'n>(mut parts: &'p [&'n str]) -> &'p [&'n str] {
    loop {
        parts = match parts {
            ["module", rest @ ..] | ["base_model", "model", rest @ ..] => rest,
            _ => return parts,
        };
    }
}

/// The base's tensor that `parts` name, without what PEFT puts into its path.
fn whole(parts: &[&str]) -> std::result::Result<String, &'static str> {
    let part = |part: &&str| part.starts_with("token_adapter") || part.starts_with("trainable_tok");
    if parts.iter().any(part) {
        return Err("replaces rows of the embedding, which cannot be imported");
    }
    let Some(["weight" | "bias"]) = parts.last_chunk::<1>() else {
        return Err("is not a LoRA factor of a linear layer");
    };
    let infix = |part: &&str| ["base_layer", "modules_to_save", "original_module"].contains(part);
    let tensor = match parts.iter().position(infix) {
        None => parts.to_vec(),
        // `modules_to_save.NAME.weight`, or without the name.
        Some(at) => [&parts[..at], &parts[parts.len() - 1..]].concat(),
    };
    match tensor.len() {
        1 => Err("is not a LoRA factor of a linear layer"),
        _ => Ok(tensor.join(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(name: &str) -> (String, Half, Option<String>) {
        match key(name).unwrap() {
            Key::Factor {
                path,
                half,
                adapter,
            } => (path, half, adapter),
            Key::Copy { tensor } => panic!("{name} is taken for {tensor}"),
        }
    }

    #[test]
    fn prefixes_wrappers_and_names_are_stripped() {
        let plain = "model.layers.0.mlp.up_proj";
        for (name, adapter) in [
            ("base_model.model.PATH.lora_A.weight", None),
            ("PATH.lora_A.weight", None),
            ("module.base_model.model.PATH.lora_A.weight", None),
            ("base_model.model.module.PATH.lora_A.weight", None),
            (
                "base_model.model.PATH.lora_A.default.weight",
                Some("default"),
            ),
            (
                "base_model.model.PATH.lora_A.my-task.weight",
                Some("my-task"),
            ),
            ("_orig_mod.base_model.model.PATH.lora_A.weight", None),
            (
                "base_model.model._orig_mod.PATH.lora_A.default.weight",
                Some("default"),
            ),
            (
                "_fsdp_wrapped_module.base_model.model.PATH.lora_A.weight",
                None,
            ),
            (
                "_forward_module.module.base_model.model.PATH.lora_A.weight",
                None,
            ),
        ] {
            let got = factor(&name.replace("PATH", plain));
            assert_eq!(
                got,
                (plain.to_owned(), Half::A, adapter.map(str::to_owned)),
                "{name}"
            );
        }
        let inside = "base_model.model.model.layers.0._orig_mod._checkpoint_wrapped_module.mlp.\
                      up_proj.lora_B._orig_mod.weight";
        assert_eq!(factor(inside), (plain.to_owned(), Half::B, None));
    }

    #[test]
    fn copies_of_the_bases_tensors_are_told() {
        for (name, want) in [
            ("base_model.model.lm_head.weight", "lm_head.weight"),
            (
                "base_model.model.model.embed_tokens.weight",
                "model.embed_tokens.weight",
            ),
            (
                "base_model.model.model.embed_tokens.base_layer.weight",
                "model.embed_tokens.weight",
            ),
            (
                "base_model.model.lm_head.modules_to_save.weight",
                "lm_head.weight",
            ),
            (
                "base_model.model.lm_head.modules_to_save.default.weight",
                "lm_head.weight",
            ),
            (
                "base_model.model.lm_head.original_module.weight",
                "lm_head.weight",
            ),
            ("_orig_mod.model.norm.weight", "model.norm.weight"),
            (
                "module.h.0.attn.c_attn.base_layer.bias",
                "h.0.attn.c_attn.bias",
            ),
        ] {
            let want = Key::Copy {
                tensor: want.to_owned(),
            };
            assert_eq!(key(name).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        for (name, why) in [
            ("base_model.model.lm_head.lora_A.weight", "adapts the head"),
            ("embed_out.lora_B.default.weight", "adapts the head"),
            (
                "base_model.model.model.embed_tokens.lora_embedding_A",
                "adapts an embedding",
            ),
            (
                "model.embed_tokens.lora_embedding_B.default",
                "adapts an embedding",
            ),
            ("q.lora_magnitude_vector.default.weight", "DoRA"),
            ("q.lora_magnitude_vector", "DoRA"),
            ("q.lora_B.default.bias", "lora_bias"),
            ("q.lora_A", "not a LoRA factor"),
            ("q.lora_A.a.b.weight", "not a LoRA factor"),
            ("q.lora_diag.default", "not a LoRA factor"),
            ("lora_A.weight", "names no layer"),
            (
                "embed.token_adapter.trainable_tokens_delta",
                "rows of the embedding",
            ),
            ("prompt_embeddings", "not a LoRA factor"),
            ("weight", "not a LoRA factor"),
            ("base_model.vera_A.default", "not a LoRA factor"),
        ] {
            let error = key(name).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(name),
                "{name}: {error}"
            );
        }
    }
}
