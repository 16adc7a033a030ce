//! The fields of a `config.json`, each taken once; one that nobody took is refused by name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Largest width, vocabulary or number of positions believed.
const LARGEST: usize = 1 << 28;

/// Fields that change nothing about what a frozen decoder computes: training, bookkeeping,
/// generation settings and hints to other programs.
const IDLE: &[&str] = &[
    "_name_or_path",
    "_attn_implementation",
    "_from_model_config",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "embed_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_max_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_dropout",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "transformers.js_config",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// Fields that may only have the one value under which they do nothing.
const OFF: &[(&str, &str)] = &[
    ("add_cross_attention", "false"),
    ("attention_bias", "false"),
    ("cross_attention_hidden_size", "null"),
    ("full_attn_mod", "1"),
    ("interpolate_factor", "1"),
    ("is_encoder_decoder", "false"),
    ("lm_head_bias", "false"),
    ("mlp_bias", "false"),
    ("pruned_heads", "{}"),
    ("qk_layernorm", "false"),
    ("rope_interleaved", "false"),
    ("tie_encoder_decoder", "false"),
    ("use_mrope", "false"),
];

/// The fields not yet taken.
#[derive(Debug)]
pub(super) struct Fields {
    what: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The fields of `value`, which errors call `what`.
    pub(super) fn new(what: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Fields {
                what: what.to_owned(),
                map,
            }),
            _ => Err(Error::format(what, "is not a JSON object")),
        }
    }

    pub(super) fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::format(&self.what, why)
    }

    /// The field, unless it is absent or null.
    pub(super) fn maybe<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match serde_json::from_value(value) {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(self.bad(format!("field `{name}`: {e}"))),
            },
        }
    }

    /// The field, or `default` when it is absent or null.
    pub(super) fn or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.maybe(name)?.unwrap_or(default))
    }

    /// The field, which must be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let found = self.maybe(name)?;
        found.ok_or_else(|| self.bad(format!("field `{name}` is missing")))
    }

    fn sized(&self, name: &str, size: usize) -> Result<usize> {
        match size {
            1..=LARGEST => Ok(size),
            _ => Err(self.bad(format!("field `{name}` is {size}: use 1 to {LARGEST}"))),
        }
    }

    /// A size, which must be there.
    pub(super) fn size(&mut self, name: &str) -> Result<usize> {
        let size = self.need(name)?;
        self.sized(name, size)
    }

    /// A size, or `default`.
    pub(super) fn size_or(&mut self, name: &str, default: usize) -> Result<usize> {
        let size = self.or(name, default)?;
        self.sized(name, size)
    }

    /// A size that may be absent.
    pub(super) fn size_maybe(&mut self, name: &str) -> Result<Option<usize>> {
        let size = self.maybe(name)?;
        size.map(|size| self.sized(name, size)).transpose()
    }

    /// A positive number, or `default`.
    pub(super) fn number_or(&mut self, name: &str, default: f64) -> Result<f64> {
        let number: f64 = self.or(name, default)?;
        self.positive(name, number)
    }

    /// A positive number, if it is there.
    pub(super) fn number_maybe(&mut self, name: &str) -> Result<Option<f64>> {
        let number = self.maybe(name)?;
        number.map(|n| self.positive(name, n)).transpose()
    }

    /// A positive number, which must be there.
    pub(super) fn number(&mut self, name: &str) -> Result<f64> {
        let number = self.need(name)?;
        self.positive(name, number)
    }

    fn positive(&self, name: &str, number: f64) -> Result<f64> {
        match number.is_finite() && number > 0.0 {
            true => Ok(number),
            false => Err(self.bad(format!("field `{name}` is {number}: it must be above 0"))),
        }
    }

    /// An object, if it is there, as fields of its own.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>> {
        let value: Option<Value> = self.maybe(name)?;
        let what = format!("{}: field `{name}`", self.what);
        value.map(|value| Fields::new(&what, value)).transpose()
    }

    /// Takes fields of which the family makes no use.
    pub(super) fn skip(&mut self, names: &[&str]) {
        names.iter().for_each(|name| {
            self.map.remove(*name);
        });
    }

    /// Refuses whatever was not taken and might change the computation.
    pub(super) fn finish(mut self) -> Result<()> {
        self.skip(IDLE);
        for (name, off) in OFF {
            let value = self.map.remove(*name).unwrap_or(Value::Null);
            let harmless = serde_json::from_str::<Value>(off).is_ok_and(|off| off == value);
            if !value.is_null() && !harmless {
                return Err(self.bad(format!(
                    "field `{name}` is {value}: only {off} is supported"
                )));
            }
        }
        let idle = |name: &str| name.starts_with("summary_") || name.starts_with("unsloth_");
        self.map
            .retain(|name, value| !value.is_null() && !idle(name));
        match self.map.iter().next() {
            None => Ok(()),
            Some((name, value)) => {
                let mut shown = value.to_string();
                if let Some((cut, _)) = shown.char_indices().nth(40) {
                    shown.truncate(cut);
                    shown += "...";
                }
                Err(self.bad(format!(
                    "field `{name}` ({shown}) is not known for this model_type and may change \
                     what it computes; if it does not, remove it from the file"
                )))
            }
        }
    }
}
