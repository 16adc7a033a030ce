//! The fields of a GGUF file below its architecture's name, each taken once.
//!
//! One that is absent is what llama.cpp takes then; one that nobody took is refused by name.

use std::collections::BTreeMap;

use lyceum_formats::gguf::{Header, Value};

use crate::error::{Error, Result};

/// Fields that say again what others say, or nothing about the computation.
const IDLE: &[&str] = &[
    "vocab_size",
    "tensor_data_layout",
    "source_tensor_layout",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "attention.key_length_swa",
];

/// The value of an absent key.
#[derive(Debug, Clone, Copy)]
enum Absent {
    /// An error.
    Refused,
    Whole(u64),
    Real(f64),
}

/// llama.cpp's defaults for absent keys (its `load_hparams`), for these families; keys that are not
/// listed follow from others (as many groups as heads) or have no value. A test walks the rows.
const ABSENT: &[(&[&str], &str, Absent)] = &[
    (ALL, "embedding_length", Absent::Refused),
    (ALL, "block_count", Absent::Refused),
    (ALL, "attention.head_count", Absent::Refused),
    (ALL, "feed_forward_length", Absent::Refused),
    (ALL, "context_length", Absent::Refused),
    (RMS, "attention.layer_norm_rms_epsilon", Absent::Refused),
    (LAYER, "attention.layer_norm_epsilon", Absent::Refused),
    (&["gpt_neox"], "use_parallel_residual", Absent::Refused),
    (ROTARY, "rope.freq_base", Absent::Real(10_000.0)),
    (&["gemma2"], "attention.sliding_window", Absent::Whole(4096)),
    (&["gemma2"], "attn_logit_softcapping", Absent::Real(50.0)),
    (&["gemma2"], "final_logit_softcapping", Absent::Real(30.0)),
];

const ALL: &[&str] = &[
    "gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3",
];
const RMS: &[&str] = &[
    "gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3",
];
const LAYER: &[&str] = &["gpt2", "gpt_neox", "phi"];
const ROTARY: &[&str] = &[
    "gemma", "gemma2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3",
];

/// The fields below the architecture's name that were not taken yet.
pub(super) struct Fields<'a> {
    pub(super) what: &'a str,
    pub(super) arch: &'a str,
    /// The `model_type` it is read as.
    pub(super) family: &'a str,
    pub(super) map: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> Fields<'a> {
    pub(super) fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::format(self.what, why)
    }

    /// The default of an absent key.
    fn absent(&self, name: &str) -> Result<Option<Absent>> {
        let here = |row: &&(&[&str], &str, Absent)| row.1 == name && row.0.contains(&self.family);
        match ABSENT.iter().find(here).map(|row| row.2) {
            Some(Absent::Refused) => {
                Err(self.bad(format!("field `{}.{name}` is missing", self.arch)))
            }
            other => Ok(other),
        }
    }

    pub(super) fn whole(&mut self, name: &str) -> Result<Option<u64>> {
        match self.map.remove(name) {
            None => Ok(match self.absent(name)? {
                Some(Absent::Whole(n)) => Some(n),
                _ => None,
            }),
            Some(Value::Whole(n @ 0..=0xffff_ffff)) => Ok(Some(n as u64)),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    pub(super) fn need(&mut self, name: &str) -> Result<u64> {
        let found = self.whole(name)?;
        found.ok_or_else(|| self.bad(format!("field `{}.{name}` is missing", self.arch)))
    }

    pub(super) fn real(&mut self, name: &str) -> Result<Option<f64>> {
        match self.map.remove(name) {
            None => Ok(match self.absent(name)? {
                Some(Absent::Real(x)) => Some(x),
                _ => None,
            }),
            Some(Value::Real(x)) => Ok(Some(meant(x))),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        match self.map.remove(name) {
            None => self.absent(name).map(|_| None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<&'a str>> {
        match self.map.remove(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.odd(name, other)),
        }
    }

    pub(super) fn odd(&self, name: &str, value: Value<'_>) -> Error {
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
    pub(super) fn finish(mut self) -> Result<()> {
        IDLE.iter().for_each(|name| {
            self.map.remove(name);
        });
        let off = |name: &str, value: &Value<'_>| match name {
            "attention.causal" => *value == Value::Bool(true),
            "expert_count" | "expert_used_count" => *value == Value::Whole(0),
            "rope.scaling.attn_factor" | "rope.scaling.yarn_attn_factor" => {
                *value == Value::Real(1.0)
            }
            "rope.scaling.yarn_ext_factor" => [Value::Real(1.0), Value::Real(-1.0)].contains(value),
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

/// The shortest number that rounds to the f32 in the file: 1e-5, as `config.json` has it.
fn meant(x: f64) -> f64 {
    let short = x as f32;
    match f64::from(short) == x {
        true => short.to_string().parse().unwrap_or(x),
        false => x,
    }
}

/// The fields below `arch`.
pub(super) fn below<'a>(header: &Header<'a>, arch: &str) -> BTreeMap<&'a str, Value<'a>> {
    let own = header.fields.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(arch)?.strip_prefix('.')?;
        Some((name, *value))
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::config;
    use super::*;
    use crate::backbone::Config;

    /// The configuration in a golden file once `change` was done to its fields.
    fn changed(
        family: &str,
        change: impl Fn(&str, &mut BTreeMap<&str, Value<'_>>),
    ) -> Result<Config> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::read(root.join(format!("tests/golden/gguf/{family}.gguf"))).unwrap();
        let mut header = Header::read(&file).unwrap();
        let Some(Value::Text(arch)) = header.fields.get("general.architecture").copied() else {
            panic!("{family} has an architecture");
        };
        change(arch, &mut header.fields);
        config(family, &header, |_| Ok(None))
    }

    #[test]
    fn absent_keys_are_what_llama_cpp_takes() {
        for (families, key, absent) in ABSENT {
            for family in *families {
                let without = changed(family, |arch, fields| {
                    fields.remove(format!("{arch}.{key}").as_str());
                });
                let value = match *absent {
                    Absent::Refused => {
                        let said = without.unwrap_err().to_string();
                        assert!(said.contains(key), "{family}: {said}");
                        continue;
                    }
                    Absent::Whole(n) => Value::Whole(n.into()),
                    Absent::Real(x) => Value::Real(x),
                };
                let without = without.unwrap();
                let put = |value: Value<'static>| {
                    changed(family, |arch, fields| {
                        let name = format!("{arch}.{key}");
                        fields.remove(name.as_str());
                        fields.insert(String::leak(name), value);
                    })
                    .unwrap()
                };
                assert_eq!(without, put(value), "{family}: {key}");
                // The key is read: with another value it is another configuration.
                let other = match value {
                    Value::Whole(n) => Value::Whole(n + 1),
                    _ => Value::Real(7.0),
                };
                assert_ne!(without, put(other), "{family}: {key}");
            }
        }
    }
}
