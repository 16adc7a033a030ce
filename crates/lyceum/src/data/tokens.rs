//! The tokenizer, and examples as token ids with their targets marked.

use std::path::Path;

use serde_json::Value;

use super::{Example, join, sentencepiece};
use crate::error::{Error, Result};

/// Token ids, the targets being those from `from` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// All ids.
    pub ids: Vec<u32>,
    /// Index of the first target.
    pub from: usize,
}

/// A tokenizer that knows how prompts and labels are joined.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    eos: u32,
    eos_text: String,
    merges_space: bool,
    /// What `tokenizer.json` puts before every text: the beginning-of-text token of Llama, Gemma
    /// and others; nothing for the GPTs.
    start: Vec<u32>,
}

/// What `tokenizer_config.json` says.
#[derive(Default)]
struct Said {
    /// The token that ends a text.
    end: Option<String>,
    /// Whether a token is put before a text.
    starts: Option<bool>,
}

impl Said {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Said::default()),
            read => read.map_err(|e| Error::io(&path, e))?,
        };
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::format(path.display(), e))?;
        let end = value.get("eos_token");
        let end = end.and_then(|end| end.as_str().or_else(|| end.get("content")?.as_str()));
        Ok(Said {
            end: end.map(str::to_owned),
            starts: value.get("add_bos_token").and_then(Value::as_bool),
        })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn failed(error: Failure) -> Error {
    Error::format("tokenizer", error)
}

/// What the crate of tokenizers makes of a file or a text. On some malformed files it panics
/// (0.23: where JSON ends within a decoder); it works on nothing else, so that is an error too.
fn guarded<T>(work: impl FnOnce() -> std::result::Result<T, Failure>) -> Result<T> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let damaged = |_| Err("the tokenizer's file is damaged".into());
    done.unwrap_or_else(damaged).map_err(failed)
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder, or a `tokenizer.model` of sentencepiece, and its
    /// `tokenizer_config.json` if there is one.
    ///
    /// # Errors
    /// When the file is missing or malformed, or names no end-of-text token.
    pub fn open(dir: &Path) -> Result<Self> {
        let said = Said::read(dir)?;
        let path = dir.join("tokenizer.json");
        let older = dir.join("tokenizer.model");
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io(path, e));
        if path.exists() {
            return Self::named(&read(&path)?, said.end);
        }
        if older.exists() {
            let start = said.starts.unwrap_or(true);
            let found = sentencepiece::read(&read(&older)?, start)
                .map_err(|why| Error::format(older.display(), why))?;
            let bytes = serde_json::to_vec(&found.json).map_err(|e| Error::format("JSON", e))?;
            return Self::named(&bytes, said.end.or(found.end));
        }
        Err(Error::invalid(format!(
            "{} is missing: a base needs its tokenizer as tokenizer.json (or sentencepiece's \
             tokenizer.model) beside config.json",
            path.display()
        )))
    }

    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// When they are malformed or name no end-of-text token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::named(bytes, None)
    }

    /// From the bytes of a `tokenizer.json`, and which token ends a text.
    pub(crate) fn named(bytes: &[u8], eos: Option<String>) -> Result<Self> {
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let candidates = eos
            .into_iter()
            .chain(["<|endoftext|>", "</s>"].map(String::from));
        let found = candidates
            .into_iter()
            .find_map(|text| Some((inner.token_to_id(&text)?, text)));
        let Some((eos, eos_text)) = found else {
            let text = "has no end-of-text token; name it as eos_token in tokenizer_config.json";
            return Err(Error::format("tokenizer.json", text));
        };
        let mut this = Tokenizer {
            inner,
            eos,
            eos_text,
            merges_space: false,
            start: Vec::new(),
        };
        this.start = this.prefix()?;
        this.merges_space = this.encode("this")?.len() == this.encode(" this")?.len();
        Ok(this)
    }

    /// The `tokenizer.json`.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.inner.to_string(false).map_err(failed)?.into_bytes())
    }

    /// The ids of `text`, no special tokens added.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What stands before every text; models that were trained with it do badly without.
    pub fn start(&self) -> &[u32] {
        &self.start
    }

    /// What the tokenizer itself puts before a text.
    fn prefix(&self) -> Result<Vec<u32>> {
        let bare = self.encode("a")?;
        let full = guarded(|| self.inner.encode("a", true))?;
        let full = full.get_ids();
        let at = full.windows(bare.len().max(1)).position(|w| w == bare);
        Ok(full[..at.unwrap_or(0)].to_vec())
    }

    /// Cuts the left end off so that, with [`Tokenizer::start`] before them, at most `max` remain.
    fn begin(&self, ids: &[u32], max: usize) -> Vec<u32> {
        let room = max.saturating_sub(self.start.len()).max(1);
        let extra = ids.len().saturating_sub(room);
        let mut all = self.start.clone();
        all.extend_from_slice(&ids[extra..]);
        all
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, true))
    }

    /// End-of-text.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Prompt and answer for training: tokenised together, the left end cut off beyond
    /// `max_input`, the targets counted by tokenising the label alone (as MTTL does).
    ///
    /// # Errors
    /// When the tokenizer fails or no target is left.
    pub fn training(&self, example: &Example, max_input: usize) -> Result<Tokens> {
        let (source, label) = join(
            &example.source,
            &example.target,
            &self.eos_text,
            self.merges_space,
        );
        let ids = self.encode(&format!("{source}{label}"))?;
        let targets = self.encode(&label)?.len().min(ids.len());
        let ids = self.begin(&ids, max_input);
        let from = ids.len().saturating_sub(targets).max(self.start.len());
        Ok(Tokens { ids, from })
    }

    /// The prompt alone, for generation.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn prompt(&self, example: &Example, max_input: usize) -> Result<Vec<u32>> {
        let (source, _) = join(&example.source, "", "", self.merges_space);
        Ok(self.begin(&self.encode(&source)?, max_input))
    }

    /// A text to be continued, its left end cut off beyond `max` tokens.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn text(&self, text: &str, max: usize) -> Result<Vec<u32>> {
        Ok(self.begin(&self.encode(text)?, max))
    }

    /// A context and its continuation as lm-eval splits them: tokenised together, the targets
    /// beginning where the context alone would end; spaces at its end go to the continuation.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn continuation(&self, context: &str, continuation: &str, max: usize) -> Result<Tokens> {
        let trimmed = context.trim_end_matches(' ');
        let spaces = &context[trimmed.len()..];
        let ids = self.encode(&format!("{trimmed}{spaces}{continuation}"))?;
        let before = self.encode(trimmed)?.len().min(ids.len());
        let targets = ids.len() - before;
        let ids = self.begin(&ids, max);
        let from = ids.len().saturating_sub(targets).max(self.start.len());
        Ok(Tokens { ids, from })
    }
}
