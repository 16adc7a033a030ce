//! The tokenizer, and examples as token ids with their targets marked.

mod end;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use lyceum_formats::sentencepiece;

use super::around::{Around, Bos, Built, decide};
use super::cuts::Cuts;
use super::pieces::Vocabulary;
use super::{Example, join};
use crate::error::{Context, Error, Result};
use crate::file::unread;

/// Token ids, the targets being those from `from` on.
///
/// ```
/// use lyceum::backbone::Precision;
///
/// let base = lyceum::assets::base(Precision::F32)?;
/// let example = &lyceum::assets::tasks()?.examples[0];
/// let tokens = base.tokenizer.training(example, 128)?;
/// let (prompt, targets) = tokens.ids.split_at(tokens.from);
/// assert!(!prompt.is_empty() && !targets.is_empty());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// All ids.
    pub ids: Vec<u32>,
    /// Index of the first target.
    pub from: usize,
}

/// A tokenizer, with the tokens that stand around a text and the way prompts and labels are joined.
///
/// ```
/// use lyceum::backbone::Precision;
///
/// let tokenizer = lyceum::assets::base(Precision::F32)?.tokenizer;
/// let ids = tokenizer.encode(" a few words")?;
/// assert_eq!(tokenizer.decode(&ids)?, " a few words");
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: u32,
    eos_text: String,
    merges_space: bool,
    /// Put before every text.
    start: Vec<u32>,
    notes: Vec<String>,
    cuts: Arc<OnceLock<Option<Cuts>>>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn failed(error: Failure) -> Error {
    Error::format("tokenizer", error)
}

/// Runs `work` of the tokenizers crate and converts its panics to errors: version 0.23 panics on
/// some malformed files (where JSON ends within a decoder). `work` shares no state with anything
/// else.
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
        let mut around = Around::read(dir)?;
        let path = dir.join("tokenizer.json");
        let older = dir.join("tokenizer.model");
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io(path, e));
        if path.exists() {
            return Self::named(&read(&path)?, &around).context(|| path.display().to_string());
        }
        if older.exists() {
            // Tokenizers of sentencepiece begin texts unless told otherwise.
            let start = around.settle().unwrap_or(true);
            let model = sentencepiece::read(&read(&older)?);
            let model = model.map_err(|e| unread(older.display(), e))?;
            let json = Vocabulary::of(&model, start).tokenizer_json();
            let bytes = serde_json::to_vec(&json).map_err(|e| Error::format("JSON", e))?;
            let text = |id: usize| model.pieces.get(id).map(|piece| piece.text.clone());
            around.eos = around.eos.or_else(|| text(model.end));
            around.bos = around.bos.or_else(|| text(model.begin));
            return Self::named(&bytes, &around);
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
        Self::named(bytes, &Around::default())
    }

    /// From the bytes of a `tokenizer.json` and statements about the tokens around a text.
    pub(crate) fn named(bytes: &[u8], around: &Around) -> Result<Self> {
        if bytes.starts_with(b"version https://git-lfs") {
            let why = "is a pointer of Git LFS; fetch the file itself (git lfs pull)";
            return Err(Error::format("tokenizer.json", why));
        }
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = inner.map_err(|e| {
            let why = format!(
                "is damaged, or a tokenizer of a kind that is not read ({})",
                e.chain()
            );
            Error::format("tokenizer.json", why)
        })?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let candidates = around.eos.clone().into_iter();
        let mut candidates = candidates.chain(["<|endoftext|>", "</s>"].map(String::from));
        let found = candidates.find_map(|text| Some((inner.token_to_id(&text)?, text)));
        let Some((eos, eos_text)) = found else {
            let text = "has no end-of-text token; name it as eos_token in tokenizer_config.json";
            return Err(Error::format("tokenizer.json", text));
        };
        let named = around.bos.as_deref();
        let named = named.and_then(|text| Some((inner.token_to_id(text)?, text)));
        let mut this = Tokenizer {
            inner,
            bos: named.map(|(id, _)| id),
            eos,
            eos_text,
            merges_space: false,
            start: Vec::new(),
            notes: Vec::new(),
            cuts: Arc::default(),
        };
        let built = this.built()?;
        // A template may name a token that no other file does.
        let first = built.before.first().copied();
        this.bos = this.bos.or(first);
        let text = first.and_then(|id| this.inner.id_to_token(id));
        let bos = named.or_else(|| first.zip(text.as_deref()));
        let bos = bos.map(|(id, text)| Bos { id, text });
        (this.start, this.notes) = decide(&built, around, bos);
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
        let encoding = guarded(|| self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids put before every text; models that were trained with them do badly without.
    pub fn start(&self) -> &[u32] {
        &self.start
    }

    /// Begins every text with the tokenizer's own special tokens, or its beginning-of-text token
    /// where it puts none, or with nothing.
    ///
    /// # Errors
    /// When no beginning-of-text token is known.
    pub fn add_bos(&mut self, add: bool) -> Result<()> {
        self.notes.clear();
        if !add {
            self.start.clear();
        } else if self.start.is_empty() {
            let bos = self.bos.ok_or_else(|| {
                Error::invalid(
                    "the tokenizer names no beginning-of-text token to put before a text; name it \
                     as bos_token in tokenizer_config.json",
                )
            })?;
            self.start = vec![bos];
        }
        Ok(())
    }

    /// Doubts about what stands before a text: two files that disagree, or a family that needs a
    /// token the tokenizer does not put. [`Tokenizer::add_bos`] settles them.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a doubt.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Notes that a model of `family` needs a beginning-of-text token that is not put.
    pub(crate) fn doubt(&mut self, family: &str) {
        if family.starts_with("gemma") && self.start.is_empty() {
            self.note(format!(
                "the tokenizer puts no beginning-of-text token before a text, and models of \
                 `{family}` do badly without one"
            ));
        }
    }

    /// The tokens that the post-processor puts around a text.
    fn built(&self) -> Result<Built> {
        let bare = self.encode("a")?;
        let full = guarded(|| self.inner.encode_fast("a", true))?;
        let full = full.get_ids();
        let at = full.windows(bare.len().max(1)).position(|w| w == bare);
        let at = at.unwrap_or(0);
        Ok(Built {
            present: self.inner.get_post_processor().is_some(),
            before: full[..at].to_vec(),
            after: full[(at + bare.len()).min(full.len())..].to_vec(),
        })
    }

    /// [`Tokenizer::start`] and then `ids`, which may begin with it already, the left end of `ids`
    /// cut off so that at most `max` remain in all.
    fn begin(&self, ids: &[u32], max: usize) -> Vec<u32> {
        let ids = ids.strip_prefix(self.start.as_slice()).unwrap_or(ids);
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
    /// When the tokenizer fails or no target is left that has a token before it.
    pub fn training(&self, example: &Example, max_input: usize) -> Result<Tokens> {
        let (source, label) = join(
            &example.source,
            &example.target,
            &self.eos_text,
            self.merges_space,
        );
        let end = |text: &str| {
            let end = self.end(text, max_input);
            end.context(|| format!("an example of task `{}`", example.task))
        };
        let ids = end(&format!("{source}{label}"))?.ids;
        let targets = end(&label)?.ids.len().min(ids.len());
        let ids = self.begin(&ids, max_input);
        let from = ids.len().saturating_sub(targets).max(self.start.len());
        if from.max(1) >= ids.len() {
            return Err(Error::invalid(format!(
                "an example of task `{}` has nothing to learn from within {max_input} tokens; \
                 allow longer inputs",
                example.task
            )));
        }
        Ok(Tokens { ids, from })
    }

    /// The prompt alone, for generation.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn prompt(&self, example: &Example, max_input: usize) -> Result<Vec<u32>> {
        let (source, _) = join(&example.source, "", "", self.merges_space);
        self.text(&source, max_input)
            .context(|| format!("an example of task `{}`", example.task))
    }

    /// A text to be continued, its left end cut off beyond `max` tokens.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn text(&self, text: &str, max: usize) -> Result<Vec<u32>> {
        Ok(self.begin(&self.end(text, max)?.ids, max))
    }

    /// A context and its continuation as lm-eval splits them (`TemplateLM._encode_pair`): all
    /// white space at the context's end goes to the continuation; both are tokenised together,
    /// and the targets begin where the context alone would end. Without a context they stand
    /// after the beginning-of-text token (where there is none, the end-of-text token). Of a pair
    /// that is too long for a window of `max` tokens the last `max + 1` remain, the last of which
    /// is never computed from.
    ///
    /// # Errors
    /// When the continuation has no token of its own, or more than `max`.
    pub fn continuation(&self, context: &str, continuation: &str, max: usize) -> Result<Tokens> {
        let kept = context.trim_end_matches(is_space);
        let end = self.end(&format!("{context}{continuation}"), max.saturating_add(1))?;
        let (mut ids, mut from) = (end.ids, 0);
        if end.cut.max(1) <= kept.len() {
            let before = self.after(kept, end.first, end.cut)?;
            let before =
                before.ok_or_else(|| Error::invalid("it cannot be cut off its context"))?;
            from = before.len();
        }
        if end.cut == 0 {
            let bare = context.is_empty() || (from == 0 && self.start.is_empty());
            let prefix = match bare {
                true => vec![self.bos.unwrap_or(self.eos)],
                false => self.start.clone(),
            };
            if ids.starts_with(&prefix) {
                from = from.max(prefix.len());
            } else {
                from += prefix.len();
                ids.splice(..0, prefix);
            }
        }
        let targets = ids.len().saturating_sub(from);
        if targets == 0 {
            return Err(Error::invalid(
                "it has no token of its own, because the tokenizer joins it with the end of what \
                 stands before it; there is nothing to score",
            ));
        }
        if targets > max {
            return Err(Error::invalid(format!(
                "it has {targets} tokens or more, and the base takes {max}"
            )));
        }
        let extra = ids.len().saturating_sub(max.saturating_add(1));
        ids.drain(..extra);
        Ok(Tokens {
            ids,
            from: from - extra,
        })
    }
}

/// White space as Python's `str.rstrip` strips it.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
