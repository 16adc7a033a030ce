//! The families, and how the `config.json` of each is read.
//!
//! A family that needs no new variation is one row of [`FAMILIES`]. Sources: the families' own
//! `config.json` files and what Hugging Face's models compute from them.

use std::path::Path;

use lyceum_kernels::activation::Activation;

use super::defaults::{self, Row};
use super::fields::Fields;
use super::gpt::GptNeo;
use super::layout::{self, Up};
use super::modules::{GEMMA2, GPT_NEO, GPT_NEOX, GPT2, LLAMA, Modules, PHI, PHI3, STARCODER2};
use super::types::{
    Attention, Config, Head, Mlp, MlpShape, Norm, NormKind, Positions, Qkv, Residual,
};
use super::{gpt, llama};
use crate::error::{Error, Result};

/// One family.
pub(super) struct Family {
    /// As `config.json` names it.
    model_type: &'static str,
    modules: &'static Modules,
    /// The values of absent fields.
    defaults: &'static [Row],
    /// Reads the fields into a description that starts as [`start`].
    read: fn(&mut Fields, &mut Config) -> Result<()>,
}

/// Every family there is.
const FAMILIES: &[Family] = &[
    row("gemma", &LLAMA, defaults::GEMMA, llama::gemma),
    row("gemma2", &GEMMA2, defaults::GEMMA2, llama::gemma2),
    row("gpt2", &GPT2, defaults::GPT2, gpt::gpt2),
    row("gpt_neo", &GPT_NEO, defaults::GPT_NEO, gpt::gpt_neo),
    row("gpt_neox", &GPT_NEOX, defaults::GPT_NEOX, gpt::gpt_neox),
    row("llama", &LLAMA, defaults::LLAMA, llama::llama),
    row("mistral", &LLAMA, defaults::MISTRAL, llama::mistral),
    row("phi", &PHI, defaults::PHI, gpt::phi),
    row("phi3", &PHI3, defaults::PHI3, llama::phi3),
    row("qwen2", &LLAMA, defaults::QWEN2, llama::qwen2),
    row("qwen3", &LLAMA, defaults::QWEN3, llama::qwen3),
    row(
        "starcoder2",
        &STARCODER2,
        defaults::STARCODER2,
        llama::starcoder2,
    ),
];

const fn row(
    model_type: &'static str,
    modules: &'static Modules,
    defaults: &'static [Row],
    read: fn(&mut Fields, &mut Config) -> Result<()>,
) -> Family {
    Family {
        model_type,
        modules,
        defaults,
        read,
    }
}

/// The families' names, sorted.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// The defaults of every family.
#[cfg(test)]
pub(super) fn defaults() -> impl Iterator<Item = (&'static str, &'static [Row])> {
    FAMILIES
        .iter()
        .map(|family| (family.model_type, family.defaults))
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When the file is missing, is of a family that is not supported, or holds a field that is
    /// not known to leave the computation as it is.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Parses a configuration in memory; `what` names it in errors.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &[u8], what: &str) -> Result<Self> {
        config(what, crate::file::json(what, text)?)
    }
}

impl GptNeo {
    /// The description of this decoder.
    ///
    /// # Errors
    /// When a size is zero or two fields do not fit.
    pub fn describe(&self) -> Result<Config> {
        let value = serde_json::to_value(self).map_err(|e| Error::format("gpt_neo", e))?;
        config("gpt_neo", value)
    }
}

/// Reads and checks a `config.json`, which errors call `what`.
pub(in crate::backbone) fn config(what: &str, value: serde_json::Value) -> Result<Config> {
    let mut fields = Fields::new(what, value)?;
    let family = of(&mut fields)?;
    let mut fields = fields.with(family.defaults);
    if !fields.says_anything() {
        return Err(fields.bad(format!(
            "says model_type `{}` and nothing else about the model (as beside GGUF files): put \
             the model's own config.json there, or open the GGUF file itself",
            family.model_type
        )));
    }
    let mut config = start(family);
    config.quantised = fields.quantised();
    (family.read)(&mut fields, &mut config)?;
    config.notes = fields.finish()?;
    check(&config).map_err(|why| Error::format(what, why))?;
    Ok(config)
}

/// The family that a `config.json` names.
fn of(fields: &mut Fields) -> Result<&'static Family> {
    if let Some(kind) = fields.text_maybe("peft_type")? {
        let base = fields.text_maybe("base_model_name_or_path")?;
        let base = base.map_or_else(String::new, |base| format!(" `{base}`"));
        return Err(fields.bad(format!(
            "is the configuration of an adapter (peft_type {kind}), not of a base: open its base\
             {base}, and import the adapter"
        )));
    }
    let all = || families().collect::<Vec<_>>().join(", ");
    let Some(model_type) = fields.text_maybe("model_type")? else {
        let made: Option<Vec<String>> = fields.list("architectures", "texts")?;
        let made = made.filter(|made| !made.is_empty());
        let hint = made.map_or_else(String::new, |made| {
            format!(" (its architectures are {})", made.join(", "))
        });
        return Err(fields.bad(format!(
            "has no model_type, which names the family{hint}; supported: {}",
            all()
        )));
    };
    let family = FAMILIES.iter().find(|f| f.model_type == model_type);
    family.ok_or_else(|| {
        fields.bad(format!(
            "model_type `{model_type}` is not supported; supported: {}",
            all()
        ))
    })
}

/// The description a reader starts from; GPT-2's shape, sizes still zero.
fn start(family: &Family) -> Config {
    Config {
        model_type: family.model_type.into(),
        vocab_size: 0,
        hidden_size: 0,
        max_position_embeddings: 0,
        embedding_scale: 1.0,
        positions: Positions::Learned,
        norm: Norm {
            kind: NormKind::Layer,
            eps: 1e-5,
            plus_one: false,
        },
        residual: Residual::Sequential,
        attention: Attention {
            heads: 0,
            kv_heads: 0,
            dim: 0,
            soft_cap: None,
            qkv: match family.modules.qkv {
                layout::Qkv::Separate(_) => Qkv::Separate,
                layout::Qkv::Fused(_) => Qkv::Fused,
                layout::Qkv::Interleaved(_) => Qkv::Interleaved,
            },
            qkv_bias: true,
            out_bias: true,
            qk_norm: false,
        },
        mlp: Mlp {
            inner: 0,
            shape: match family.modules.up {
                Up::Plain(_) => MlpShape::Plain,
                Up::Gated(_) => MlpShape::Gated,
                Up::Fused(_) => MlpShape::Fused,
            },
            activation: Activation::GeluTanh,
            bias: true,
        },
        layers: Vec::new(),
        head: Head {
            tied: true,
            bias: false,
            soft_cap: None,
        },
        transposed: false,
        modules: family.modules,
        identity: None,
        quantised: None,
        notes: Vec::new(),
    }
}

fn check(config: &Config) -> Result<(), String> {
    let Attention {
        heads,
        kv_heads,
        dim,
        qkv,
        ..
    } = config.attention;
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.max_position_embeddings,
        config.mlp.inner,
        config.layers.len(),
        heads,
        kv_heads,
        dim,
    ];
    if sizes.contains(&0) || config.layers.iter().any(|l| l.window == Some(0)) {
        return Err("sizes must not be zero".into());
    }
    if !heads.is_multiple_of(kv_heads) || (qkv == Qkv::Interleaved && heads != kv_heads) {
        return Err(format!(
            "{heads} query heads cannot share {kv_heads} key-value heads"
        ));
    }
    Ok(())
}
