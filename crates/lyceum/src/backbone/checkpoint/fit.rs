//! A checkpoint's tensors under the names that its configuration uses.
//!
//! Every tensor of a file is used, refused, or known to have no effect: one that the configuration
//! does not explain, or that contradicts it, is an error.

use std::collections::BTreeMap;

use super::storage::StorageType;
use super::weights::Weights;
use crate::backbone::config::{Config, Positions};
use crate::error::{Error, Result};

/// Parts that programs around a model put into the names of its tensors: torch.compile, FSDP,
/// activation checkpointing.
const WRAPPERS: [&str; 3] = [
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
];

/// The prefix that data-parallel training puts before every name.
const PARALLEL: &str = "module.";

impl Weights<'_> {
    /// Gives the tensors the names that `config` uses, settles whether the head is the embedding,
    /// and leaves out what changes nothing.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or is one that `config` does not explain.
    pub(in crate::backbone) fn fit(&mut self, config: &mut Config) -> Result<()> {
        self.rename(config)?;
        self.tie(config)?;
        let wanted: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        for (name, shape) in &wanted {
            self.check(name, shape, config)?;
        }
        let floats = self
            .tensors
            .iter()
            .map(|(name, s)| (name, &s.shape, "floats"));
        let others = self
            .others
            .iter()
            .map(|(name, o)| (name, &o.shape, o.kind.as_str()));
        let strange = |(name, shape, _): &(&String, &Vec<usize>, &str)| {
            !wanted.contains_key(*name) && !idle(name, shape, config)
        };
        if let Some((name, shape, kind)) = floats.chain(others).find(strange) {
            return Err(Error::Mismatch(format!(
                "the base's weights hold a tensor `{name}` ({kind}, {shape:?}) that its config does \
                 not explain{}",
                quantised(config)
            )));
        }
        if let Some(field) = &config.quantised {
            self.notes.push(format!(
                "config.json has {field}, and all weights are plain numbers: they are read as they \
                 are"
            ));
        }
        self.tensors.retain(|name, _| wanted.contains_key(name));
        self.others.clear();
        Ok(())
    }

    /// Takes wrappers' parts off the names and adds what the head's wrapper would.
    fn rename(&mut self, config: &Config) -> Result<()> {
        let all = || self.tensors.keys().chain(self.others.keys());
        let parallel = all().all(|name| name.starts_with(PARALLEL));
        let bare = |name: &str| {
            let name = WRAPPERS
                .iter()
                .fold(name.to_owned(), |name, part| name.replace(part, ""));
            match name.strip_prefix(PARALLEL) {
                Some(rest) if parallel => rest.to_owned(),
                _ => name,
            }
        };
        let root = format!("{}.", config.modules.root);
        // Saved without the head's wrapper, as the first GPT-2 was.
        let rooted = all().any(|name| bare(name).starts_with(&root));
        let heads = [config.modules.head, "lm_head"].map(|head| format!("{head}."));
        let renamed = |name: &str| {
            let name = bare(name);
            // GPT-NeoX's head has the name that all others have, in files of transformers 5.
            match heads
                .iter()
                .find_map(|head| name.strip_prefix(head.as_str()))
            {
                Some(end) => format!("{}{end}", heads[0]),
                None if rooted => name,
                None => format!("{root}{name}"),
            }
        };
        self.tensors = under(std::mem::take(&mut self.tensors), &renamed)?;
        self.others = under(std::mem::take(&mut self.others), &renamed)?;
        Ok(())
    }

    /// Checks a head that the configuration ties to the embedding, and unties it if its own values
    /// differ.
    fn tie(&mut self, config: &mut Config) -> Result<()> {
        let head = format!("{}.weight", config.modules.head);
        let tokens = format!("{}.weight", config.in_root(config.modules.tokens));
        if !config.head.tied {
            return Ok(());
        }
        let (Some(own), embedding) = (self.tensors.get(&head), self.tensors.get(&tokens)) else {
            return Ok(());
        };
        let Some(embedding) = embedding else {
            // Of two names of one tensor, safetensors keeps one.
            if let Some(stored) = self.tensors.remove(&head) {
                self.tensors.insert(tokens, stored);
            }
            return Ok(());
        };
        if own.shape != embedding.shape {
            return Err(Error::Mismatch(format!(
                "the base's config says that the head is the embedding (tie_word_embeddings), but \
                 `{head}` is {:?} and `{tokens}` {:?}: resize the smaller one, or remove `{head}` \
                 from the weights",
                own.shape, embedding.shape
            )));
        }
        if own.same(embedding)? {
            self.tensors.remove(&head);
            return Ok(());
        }
        self.notes.push(format!(
            "the config says that the head is the embedding (tie_word_embeddings), but `{head}` and \
             `{tokens}` hold different values: the head of its own is used, as in transformers 5; \
             write \"tie_word_embeddings\": false to make that plain"
        ));
        config.untie();
        Ok(())
    }

    /// Checks that the tensor that `config` needs is present, with its shape, in a type that is
    /// read.
    fn check(&self, name: &str, shape: &[usize], config: &Config) -> Result<()> {
        let hint = quantised(config);
        let Some(stored) = self.tensors.get(name) else {
            if let Some(other) = self.others.get(name) {
                return Err(Error::Mismatch(format!(
                    "tensor `{name}` is kept as {} ({:?}), which is not read; read are F64, F32, \
                     F16, BF16 and F8{hint}",
                    other.kind, other.shape
                )));
            }
            let head = name == format!("{}.weight", config.modules.head);
            let tied = match head {
                true => {
                    "; if the head is the embedding, its config must say \"tie_word_embeddings\": \
                     true"
                }
                false => "",
            };
            return Err(Error::Mismatch(format!(
                "the base's weights hold no tensor `{name}`, which its config needs{tied}{hint}"
            )));
        };
        if stored.shape.contains(&0) {
            return Err(Error::Mismatch(format!(
                "tensor `{name}` is empty ({:?}): the base was saved by DeepSpeed ZeRO-3 without \
                 gathering its weights; make whole ones with its zero_to_fp32.py, or save with \
                 stage3_gather_16bit_weights_on_model_save",
                stored.shape
            )));
        }
        if stored.shape != *shape {
            return Err(Error::Mismatch(format!(
                "tensor `{name}` is {:?}, the base's config says {shape:?} (a field that it leaves \
                 out has its family's usual value){hint}",
                stored.shape
            )));
        }
        let plain = matches!(
            stored.lay(),
            StorageType::F64 | StorageType::F32 | StorageType::F16 | StorageType::Bf16
        );
        match config.quantised.is_some() && !plain {
            true => Err(Error::Mismatch(format!(
                "tensor `{name}` is not kept in plain numbers{hint}"
            ))),
            false => Ok(()),
        }
    }
}

/// A hint for errors about weights that the configuration declares as quantised; empty otherwise.
fn quantised(config: &Config) -> String {
    config.quantised.as_ref().map_or_else(String::new, |field| {
        format!(
            "; its config has {field}: such weights are not read, so use the unquantised base, or \
             a GGUF file of it"
        )
    })
}

/// Renames the keys of a map.
fn under<T>(
    all: BTreeMap<String, T>,
    renamed: &impl Fn(&str) -> String,
) -> Result<BTreeMap<String, T>> {
    let mut new = BTreeMap::new();
    for (name, thing) in all {
        let name = renamed(&name);
        if new.contains_key(&name) {
            return Err(Error::Mismatch(format!(
                "the base's weights hold the tensor `{name}` under two names, with and without \
                 what a program put before it"
            )));
        }
        new.insert(name, thing);
    }
    Ok(new)
}

/// Returns `true` if the tensor is known to have no effect: masks and frequencies that follow from
/// the configuration, which the reference does not read either.
fn idle(name: &str, shape: &[usize], config: &Config) -> bool {
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let turns = matches!(config.positions, Positions::Rotary(_));
    // A bias would be a vector, a mask is a square.
    (ends(&[".attn.bias", ".attention.bias"]) && shape.len() > 1)
        || (ends(&[".attn.masked_bias", ".attention.masked_bias"])
            && shape.iter().product::<usize>() == 1)
        || (ends(&[
            "rotary_emb.inv_freq",
            "rotary_emb.cos_cached",
            "rotary_emb.sin_cached",
        ]) && turns)
        || ends(&[".position_ids"])
}
