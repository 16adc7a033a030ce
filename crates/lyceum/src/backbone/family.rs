//! The families: what each calls its modules, and how its `config.json` is read.
//!
//! A family that needs no new variation is one row of [`FAMILIES`]. Sources: the families' own
//! `config.json` files and what Hugging Face's models compute from them.

use lyceum_kernels::activation::Activation;

use super::config::{
    Attention, Config, Head, Layer, Mlp, MlpShape, Norm, NormKind, Positions, Qkv, Residual,
};
use super::defaults::{self, Row};
use super::fields::Fields;
use super::{gpt, llama};
use crate::error::{Error, Result};

/// The module names of a checkpoint; names that a family has no use for are empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Modules {
    /// The decoder without its head.
    pub(super) root: &'static str,
    /// Token embedding.
    pub(super) tokens: &'static str,
    /// Learned positions.
    pub(super) positions: &'static str,
    /// The list of blocks.
    pub(super) blocks: &'static str,
    /// Norm before attention.
    pub(super) attention_norm: &'static str,
    /// Norm before the MLP.
    pub(super) mlp_norm: &'static str,
    /// Norm over what attention gives.
    pub(super) after_attention: &'static str,
    /// Norm over what the MLP gives.
    pub(super) after_mlp: &'static str,
    /// q, k and v, or the one matrix for all.
    pub(super) qkv: &'static [&'static str],
    /// Norms of the heads of q and of k.
    pub(super) qk_norms: &'static [&'static str],
    /// Output of attention.
    pub(super) out: &'static str,
    /// Gate and up, the one matrix for both, or up alone.
    pub(super) up: &'static [&'static str],
    /// Output of the MLP.
    pub(super) down: &'static str,
    /// The last norm.
    pub(super) norm: &'static str,
    /// The head; not below the root.
    pub(super) head: &'static str,
}

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

const LLAMA: Modules = Modules {
    root: "model",
    tokens: "embed_tokens",
    positions: "",
    blocks: "layers",
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    after_attention: "",
    after_mlp: "",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    qk_norms: &["self_attn.q_norm", "self_attn.k_norm"],
    out: "self_attn.o_proj",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    norm: "norm",
    head: "lm_head",
};

const GEMMA2: Modules = Modules {
    mlp_norm: "pre_feedforward_layernorm",
    after_attention: "post_attention_layernorm",
    after_mlp: "post_feedforward_layernorm",
    ..LLAMA
};

const PHI3: Modules = Modules {
    qkv: &["self_attn.qkv_proj"],
    up: &["mlp.gate_up_proj"],
    ..LLAMA
};

const STARCODER2: Modules = Modules {
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    ..LLAMA
};

const PHI: Modules = Modules {
    mlp_norm: "",
    qk_norms: &["self_attn.q_layernorm", "self_attn.k_layernorm"],
    out: "self_attn.dense",
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    norm: "final_layernorm",
    ..LLAMA
};

const GPT2: Modules = Modules {
    root: "transformer",
    tokens: "wte",
    positions: "wpe",
    blocks: "h",
    attention_norm: "ln_1",
    mlp_norm: "ln_2",
    after_attention: "",
    after_mlp: "",
    qkv: &["attn.c_attn"],
    qk_norms: &[],
    out: "attn.c_proj",
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    norm: "ln_f",
    head: "lm_head",
};

const GPT_NEO: Modules = Modules {
    qkv: &[
        "attn.attention.q_proj",
        "attn.attention.k_proj",
        "attn.attention.v_proj",
    ],
    out: "attn.attention.out_proj",
    ..GPT2
};

const GPT_NEOX: Modules = Modules {
    root: "gpt_neox",
    tokens: "embed_in",
    positions: "",
    blocks: "layers",
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    after_attention: "",
    after_mlp: "",
    qkv: &["attention.query_key_value"],
    qk_norms: &[],
    out: "attention.dense",
    up: &["mlp.dense_h_to_4h"],
    down: "mlp.dense_4h_to_h",
    norm: "final_layer_norm",
    head: "embed_out",
};

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

/// Reads and checks a `config.json`, which errors call `what`.
pub(super) fn config(what: &str, value: serde_json::Value) -> Result<Config> {
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
            qkv: Qkv::Separate,
            qkv_bias: true,
            out_bias: true,
            qk_norm: false,
        },
        mlp: Mlp {
            inner: 0,
            shape: MlpShape::Plain,
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

/// `n` blocks alike, within reason.
pub(super) fn layers(fields: &Fields, n: usize, scale: f64) -> Result<Vec<Layer>> {
    if n > 10_000 {
        return Err(fields.bad(format!("{n} blocks are more than 10000")));
    }
    let layer = Layer {
        scale,
        window: None,
    };
    Ok(vec![layer; n])
}

/// The width of a head when `hidden_size` is shared out among `heads`.
pub(super) fn head_dim(fields: &Fields, hidden: usize, heads: usize) -> Result<usize> {
    match hidden.is_multiple_of(heads) {
        true => Ok(hidden / heads),
        false => Err(fields.bad(format!(
            "the hidden size {hidden} is not a multiple of the {heads} heads"
        ))),
    }
}

/// The activation that field `name` names.
pub(super) fn activation(fields: &mut Fields, name: &str) -> Result<Activation> {
    let text = fields.text(name)?;
    activation_of(fields, &text)
}

/// The activation of this name; several are the same function, computed another way.
pub(super) fn activation_of(fields: &Fields, name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "gelu" | "gelu_python" => Activation::Gelu,
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        other => {
            return Err(fields.bad(format!(
                "the activation `{other}` is not supported; supported: gelu_new, \
                 gelu_pytorch_tanh, gelu, silu, swish, relu"
            )));
        }
    })
}

/// Takes `sliding_window` of a family whose attention never slides.
pub(super) fn never_slides(fields: &mut Fields) -> Result<()> {
    match fields.flag_maybe("use_sliding_window")? {
        Some(true) => {
            return Err(fields.bad(
                "field `use_sliding_window` is true, but this model_type has no sliding windows",
            ));
        }
        Some(false) => fields.skip(&["sliding_window"]),
        None => {}
    }
    fields.skip(&["max_window_layers"]);
    fields.unused("sliding_window", "this model_type sees all earlier tokens");
    Ok(())
}

/// Checks `layer_types` where `layers` already follow from the family.
pub(super) fn same_layers(fields: &mut Fields, layers: &[Layer]) -> Result<()> {
    let Some(types) = fields.list::<String>("layer_types", "texts")? else {
        return Ok(());
    };
    let fits = |(kind, layer): (&String, &Layer)| match kind.as_str() {
        "full_attention" | "attention" => layer.window.is_none(),
        "sliding_attention" => layer.window.is_some(),
        _ => false,
    };
    match types.len() == layers.len() && types.iter().zip(layers).all(fits) {
        true => Ok(()),
        false => Err(fields.bad(
            "field `layer_types` does not agree with `sliding_window`, which alone decides in \
             this model_type: make them agree, or leave layer_types out",
        )),
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
