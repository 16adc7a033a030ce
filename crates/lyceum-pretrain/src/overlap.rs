//! Keeps what a base is later judged by out of what it reads: documents that share a run of words
//! with a row of the files a recipe avoids.
//!
//! The test is that of GPT-3's appendix C (arXiv:2005.14165) with shorter runs, since questions are
//! short. What many rows of one file have in common is its instruction, not its content.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde_json::Value;

use lyceum::error::{Error, Result};

/// Words of a run.
const RUN: usize = 6;
/// A run in more than one of so many rows of a file belongs to its instruction.
const COMMON: usize = 20;

/// Runs of words that belong to rows to be avoided, sorted.
pub(super) struct Reserved(Vec<u64>);

impl Reserved {
    /// The runs of all strings in every row of `files` (JSON lines).
    ///
    /// # Errors
    /// When a file cannot be read or a line is not JSON.
    pub(super) fn read<'a>(files: impl Iterator<Item = &'a Path>) -> Result<Self> {
        let mut all = Vec::new();
        for path in files {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
            let mut own = Vec::new();
            let mut rows = 0;
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let row: Value =
                    serde_json::from_str(line).map_err(|e| Error::format(path.display(), e))?;
                let mut strings = Vec::new();
                collect(&row, &mut strings);
                let runs: BTreeSet<u64> = strings.iter().flat_map(|text| runs(text)).collect();
                own.extend(runs);
                rows += 1;
            }
            own.sort_unstable();
            let content = |same: &&[u64]| same.len() * COMMON <= rows.max(COMMON);
            all.extend(
                own.chunk_by(|a, b| a == b)
                    .filter(content)
                    .map(|same| same[0]),
            );
        }
        all.sort_unstable();
        all.dedup();
        Ok(Reserved(all))
    }

    /// Returns `true` if `text` shares a run of words with them.
    pub(super) fn touches(&self, text: &str) -> bool {
        !self.0.is_empty() && runs(text).any(|run| self.0.binary_search(&run).is_ok())
    }
}

/// All strings of a JSON value.
fn collect<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(all) => all.iter().for_each(|value| collect(value, into)),
        Value::Object(all) => all.values().for_each(|value| collect(value, into)),
        _ => {}
    }
}

/// Hashes of the runs of words of a text, case and punctuation aside.
fn runs(text: &str) -> impl Iterator<Item = u64> {
    let words: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| hash(&word.to_lowercase()))
        .collect();
    let runs: Vec<u64> = words.windows(RUN).map(|run| hash(&run)).collect();
    runs.into_iter()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_avoided_and_their_instruction_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("rows.jsonl");
        let row = |i: usize| {
            let source = format!(
                "Say whether the given sentence is about time. The train number {i} left at \
                 {i} past noon."
            );
            format!(
                "{}\n",
                serde_json::json!({ "source": source, "choices": ["Yes.", "No."] })
            )
        };
        let rows: String = (0..60).map(row).collect();
        std::fs::write(&path, rows).unwrap();
        let reserved = Reserved::read([path.as_path()].into_iter()).unwrap();
        assert!(reserved.touches("He said: THE TRAIN, number 7, left at once."));
        assert!(!reserved.touches("Say whether the given sentence is about time. It was late."));
        assert!(!reserved.touches("The train number 60 left at 60 past noon."));
        assert!(!reserved.touches(""));
        std::fs::write(&path, "{\"source\": \n").unwrap();
        assert!(Reserved::read([path.as_path()].into_iter()).is_err());
    }
}
