//! Tokens around a text: the one that begins it and the one that ends it.
//!
//! The post-processor of a `tokenizer.json` decides, and where there is none the flags of
//! `tokenizer_config.json` do, as in transformers 5. A flag that says otherwise than the
//! post-processor is noted with both readings.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The file that describes a tokenizer.
const CONFIG: &str = "tokenizer_config.json";

/// Statements about the tokens around a text from outside of `tokenizer.json`.
#[derive(Debug, Default, Clone)]
pub(crate) struct Around {
    /// The file they are from.
    pub(crate) file: String,
    /// The token that begins a text.
    pub(crate) bos: Option<String>,
    /// The token that ends a text.
    pub(crate) eos: Option<String>,
    /// `add_bos_token`.
    pub(crate) add_bos: Option<bool>,
    /// `add_eos_token`.
    pub(crate) add_eos: Option<bool>,
    /// The tokenizer's class in transformers.
    pub(crate) class: String,
}

impl Around {
    /// Reads `tokenizer_config.json` of a folder and, for tokens it does not name,
    /// `special_tokens_map.json`. Both may be absent.
    ///
    /// # Errors
    /// When a file is malformed or a flag is not a boolean.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let config = object(&dir.join(CONFIG))?;
        let map = object(&dir.join("special_tokens_map.json"))?;
        let token = |name: &str| [&config, &map].iter().find_map(|file| token(file, name));
        let flag = |name: &str| match config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Error::format(
                dir.join(CONFIG).display(),
                format!("`{name}` is {other}; it must be true or false"),
            )),
        };
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        Ok(Around {
            file: CONFIG.into(),
            bos: token("bos_token"),
            eos: token("eos_token"),
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            class: class.unwrap_or_default().into(),
        })
    }

    /// `add_bos_token`, which the caller follows: nothing is left to disagree with.
    pub(super) fn settle(&mut self) -> Option<bool> {
        self.class.clear();
        self.add_bos.take()
    }

    /// The class puts BOS before a text in transformers 4 unless told otherwise.
    fn class_adds_bos(&self) -> bool {
        let class = self.class.strip_suffix("Fast").unwrap_or(&self.class);
        matches!(
            class,
            "LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer"
        )
    }
}

/// A special token of a file: its text, or an object around it.
pub(crate) fn token(file: &Map<String, Value>, name: &str) -> Option<String> {
    let token = file.get(name)?;
    let text = token.as_str().or_else(|| token.get("content")?.as_str());
    text.map(str::to_owned)
}

/// A JSON object of a file, empty when the file is absent.
pub(crate) fn object(path: &Path) -> Result<Map<String, Value>> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        read => read.map_err(|e| Error::io(path, e))?,
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::format(path.display(), "is not a JSON object")),
        Err(e) => Err(Error::format(
            path.display(),
            format!(
                "is not valid JSON (line {}, column {})",
                e.line(),
                e.column()
            ),
        )),
    }
}

/// Ids put around every text by the post-processor of a `tokenizer.json`.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// There is a post-processor, of whatever kind.
    pub(super) present: bool,
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// A token that begins a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bos<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
}

/// The ids put before every text, and the disagreements about them.
pub(super) fn decide(
    built: &Built,
    around: &Around,
    bos: Option<Bos<'_>>,
) -> (Vec<u32>, Vec<String>) {
    let file = &around.file;
    let named = bos.map(|bos| format!("`{}`", bos.text));
    let named = named.unwrap_or_else(|| "a beginning-of-text token".into());
    let puts = !built.before.is_empty();
    let (start, note) = match (built.present, around.add_bos, bos) {
        (true, Some(flag), _) if flag != puts => {
            let (done, other) = match puts {
                true => (named.as_str(), "nothing"),
                false => ("nothing", named.as_str()),
            };
            let note = format!(
                "the post-processor of tokenizer.json puts {done} before a text, but add_bos_token \
                 in {file} is {flag}, which would put {other} there; the post-processor is \
                 followed, as in transformers 5 (transformers 4 follows the flag in the tokenizers \
                 of Llama and Gemma)"
            );
            (built.before.clone(), Some(note))
        }
        (true, ..) => (built.before.clone(), None),
        (false, Some(true), Some(bos)) => (vec![bos.id], None),
        (false, Some(true), None) => {
            let note = format!(
                "add_bos_token in {file} is true, but the file names no bos_token of the \
                 vocabulary: nothing is put before a text"
            );
            (Vec::new(), Some(note))
        }
        (false, None, _) if around.class_adds_bos() => {
            let note = format!(
                "{file} does not say whether {named} comes before a text and tokenizer.json has no \
                 post-processor: nothing is put there, as in transformers 5 ({} of transformers 4 \
                 puts it)",
                around.class
            );
            (Vec::new(), Some(note))
        }
        (false, ..) => (Vec::new(), None),
    };
    let notes = note.into_iter().chain(ending(built, around));
    (start, notes.collect())
}

/// A note about a token put after every text, which is left out.
fn ending(built: &Built, around: &Around) -> Option<String> {
    let flagged = !built.present && around.add_eos == Some(true);
    if !flagged && built.after.is_empty() {
        return None;
    }
    let by = match flagged {
        true => format!("add_eos_token in {}", around.file),
        false => "the post-processor of tokenizer.json".into(),
    };
    Some(format!(
        "{by} ends every text with a token of its own; it is left out, because prompts and scored \
         texts are continued"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_processor_is_followed_and_a_flag_stands_in_for_none() {
        let around = |add_bos| Around {
            file: CONFIG.into(),
            add_bos,
            ..Around::default()
        };
        let built = |present, before: &[u32]| Built {
            present,
            before: before.into(),
            after: Vec::new(),
        };
        let bos = Some(Bos { id: 2, text: "<s>" });
        for (present, before, flag, start, noted) in [
            (true, &[2][..], Some(true), &[2][..], false),
            (true, &[2], None, &[2], false),
            (true, &[2], Some(false), &[2], true),
            (true, &[], Some(true), &[], true),
            (true, &[], Some(false), &[], false),
            (false, &[], Some(true), &[2], false),
            (false, &[], Some(false), &[], false),
            (false, &[], None, &[], false),
        ] {
            let (got, notes) = decide(&built(present, before), &around(flag), bos);
            assert_eq!(got, start, "{present} {before:?} {flag:?}");
            assert_eq!(!notes.is_empty(), noted, "{notes:?}");
            assert!(notes.iter().all(|n| n.contains("<s>")), "{notes:?}");
        }
        let (start, notes) = decide(&built(false, &[]), &around(Some(true)), None);
        assert!(start.is_empty() && notes[0].contains("names no bos_token"));
        // A class of transformers 4 that adds it unasked.
        let mut llama = around(None);
        llama.class = "LlamaTokenizerFast".into();
        let (start, notes) = decide(&built(false, &[]), &llama, bos);
        assert!(start.is_empty() && notes[0].contains("LlamaTokenizerFast"));
        // The end of a text is never put where it goes on.
        let ends = Built {
            present: true,
            before: Vec::new(),
            after: vec![1],
        };
        let (_, notes) = decide(&ends, &around(None), bos);
        assert!(notes[0].contains("ends every text"), "{notes:?}");
    }
}
