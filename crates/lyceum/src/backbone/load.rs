//! A base, opened and prepared for computing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Tensor;

use super::chat::{Chat, Said};
use super::checkpoint::Weights;
use super::config::Config;
use super::decoder::Decoder;
use super::load_options::{Backend, LoadOptions, Precision};
use super::open::open;
use super::parts::Parts;
use crate::data::Tokenizer;
use crate::error::{Error, Hint, Result};
use crate::expert::{BaseMatch, TargetBase};

/// A frozen base with its tokenizer, ready to be shared.
///
/// ```
/// use lyceum::prelude::*;
///
/// let base = lyceum::assets::base(Precision::F32)?;
/// let ids = base.tokenizer.text("Question: what do bees make?", 128)?;
/// println!("{} reads {} tokens", base.name, ids.len());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug)]
pub struct Base {
    /// The folder's name.
    pub name: String,
    /// Hex SHA-256 over configuration and weights; experts remember it.
    pub fingerprint: String,
    /// Hex SHA-256 over the architecture alone: the same network in other bytes has the same one.
    pub family_fingerprint: String,
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The arithmetic it was opened with.
    pub precision: Precision,
    /// Tokens that end a text: the tokenizer's end-of-text and those the base names.
    pub stops: BTreeSet<u32>,
    /// The chat templates.
    pub chat: Chat,
    /// Which experts it accepts.
    pub accepts: BaseMatch,
    /// Warnings for people, a sentence each: contradictions in its files and how they were
    /// resolved, and parts of them that are not used.
    pub notes: Vec<String>,
}

impl Base {
    /// Opens a folder: `config.json`, `model.safetensors` (or shards with an index),
    /// `tokenizer.json`, and, where there are, `generation_config.json` and a chat template; or a
    /// GGUF file, which holds all that. Weights are mapped and converted one at a time.
    ///
    /// # Errors
    /// When a file is missing or malformed, or shapes do not match the configuration.
    pub fn open(path: &Path, place: impl Into<LoadOptions>) -> Result<Self> {
        let begun = std::time::Instant::now();
        let base = Base::new(open(path)?, place.into())?;
        let (path, precision) = (path.display(), base.precision);
        let elapsed_ms = begun.elapsed().as_secs_f64() * 1e3;
        tracing::info!(%path, ?precision, elapsed_ms, "opened base");
        Ok(base)
    }

    /// Reads a base from the contents of its three files.
    ///
    /// # Errors
    /// As [`Base::open`].
    pub fn from_bytes(
        name: &str,
        config: &[u8],
        weights: &[u8],
        tokenizer: &[u8],
        place: impl Into<LoadOptions>,
    ) -> Result<Self> {
        let weights = Weights::of(weights)?;
        let config = Config::parse(config, "config.json")?;
        let tokenizer = Tokenizer::from_bytes(tokenizer)?;
        let name = name.to_owned();
        let said = Said::default();
        let parts = Parts {
            name,
            config,
            weights,
            said,
            tokenizer,
            notes: Vec::new(),
        };
        Base::new(parts, place.into())
    }

    /// Assembles a base from tensors in f32.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_parts(
        name: String,
        config: Config,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Tokenizer,
        place: impl Into<LoadOptions>,
    ) -> Result<Self> {
        let weights = Weights::made(tensors);
        let said = Said::default();
        let parts = Parts {
            name,
            config,
            weights,
            said,
            tokenizer,
            notes: Vec::new(),
        };
        Base::new(parts, place.into())
    }

    fn new(parts: Parts<'_>, options: LoadOptions) -> Result<Self> {
        let Parts {
            name,
            mut config,
            mut weights,
            said,
            mut tokenizer,
            mut notes,
        } = parts;
        tokenizer.doubt(&config.model_type);
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Mismatch(format!(
                "the tokenizer has {} tokens, the base {}: they do not match",
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        let precision = options.precision;
        if precision == Precision::Int8 && matches!(options.backend, Backend::Candle(_)) {
            return Err(
                Error::invalid("matrices are kept in eight bits on the processor only").hint(
                    Hint::Set {
                        option: "precision",
                        value: "bf16",
                    },
                ),
            );
        }
        weights.fit(&mut config)?;
        notes.append(&mut config.notes);
        notes.append(&mut weights.notes);
        let fingerprint = weights.fingerprint(&config)?;
        let decoder = Decoder::frozen(config, &weights, options)?;
        let mut stops = said.stops;
        stops.insert(tokenizer.eos());
        Ok(Base {
            name,
            fingerprint,
            family_fingerprint: decoder.config().family_fingerprint()?,
            decoder,
            tokenizer,
            precision,
            stops,
            chat: said.chat,
            accepts: BaseMatch::default(),
            notes,
        })
    }

    /// Changes which experts the base accepts.
    #[must_use]
    pub fn accepting(mut self, accepts: BaseMatch) -> Self {
        self.accepts = accepts;
        self
    }

    /// This base as an expert sees it.
    pub fn host(&self) -> TargetBase {
        TargetBase {
            name: self.name.clone(),
            fingerprint: self.fingerprint.clone(),
            family_fingerprint: self.family_fingerprint.clone(),
            accepts: self.accepts,
            sites: self.decoder.config().sites().into_iter().collect(),
        }
    }
}
