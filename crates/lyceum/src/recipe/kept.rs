//! Results that a run leaves for the next one into the same folder, and everything they depend on.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Recipe;
use crate::backbone::Base;
use crate::data::{Example, Question};
use crate::digest::{hex, sha256};
use crate::error::{Error, Result};

/// Grows with every change of what a kept result means for the same inputs.
const FORMAT: u32 = 2;

/// Digests of the inputs common to every method of a run: the base and its arithmetic, the limits,
/// and the rows as text and as tokens of the base.
#[derive(Debug)]
pub(super) struct Inputs {
    common: String,
    test: String,
    questions: String,
}

impl Inputs {
    /// The inputs of `recipe`'s evaluations over `base`.
    ///
    /// # Errors
    /// When a row cannot be tokenised.
    pub(super) fn new(
        recipe: &Recipe,
        base: &Base,
        test: &[Example],
        questions: &[Question],
    ) -> Result<Self> {
        let common = json!({
            "format": FORMAT,
            "lyceum": env!("CARGO_PKG_VERSION"),
            "base": base.fingerprint,
            "precision": [recipe.precision, base.precision],
            "device": crate::device::name(base.decoder.device()),
            "positions": base.decoder.config().max_position_embeddings,
            "stops": base.stops,
            "limits": recipe.eval,
        });
        let name = recipe.downstream.as_deref().map(super::downstream_name);
        Ok(Inputs {
            common: hash(&common)?,
            test: rows(base, recipe.eval.max_input_tokens, test)?,
            questions: hash(&json!([name, asked(base, questions)?]))?,
        })
    }

    /// The key of what `method` (its effective specification, the mixing and what its mixture is
    /// made from) writes for the test rows.
    pub(super) fn predictions(&self, method: &Value) -> Result<String> {
        hash(&json!(["predictions", self.common, self.test, method]))
    }

    /// The key of what it answers to the questions.
    pub(super) fn answers(&self, method: &Value) -> Result<String> {
        hash(&json!(["answers", self.common, self.questions, method]))
    }
}

fn hash(value: &Value) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Error::format("a key", e))?;
    Ok(sha256(text))
}

/// The rows, their tokens, and what the tokenizer makes of these again: another tokenizer, or the
/// same one used in another way, gives another hash.
fn rows(base: &Base, max_input: usize, rows: &[Example]) -> Result<String> {
    let mut all = Sha256::new();
    for row in rows {
        let ids = base.tokenizer.prompt(row, max_input)?;
        let text = base.tokenizer.decode(&ids)?;
        let row = json!([row.task, row.source, row.references, ids, text]);
        all.update(row.to_string());
    }
    Ok(hex(all.finalize()))
}

fn asked(base: &Base, questions: &[Question]) -> Result<String> {
    let mut all = Sha256::new();
    let tokenizer = &base.tokenizer;
    for question in questions {
        let ids = tokenizer.text(&question.query, usize::MAX)?;
        let options: Vec<Vec<u32>> = { question.choices.iter() }
            .map(|choice| tokenizer.encode(choice))
            .collect::<Result<_>>()?;
        all.update(json!([question, ids, options]).to_string());
    }
    Ok(hex(all.finalize()))
}

/// The lines of `path` if its first one carries `key` and it is whole, else what `work` makes,
/// written there. The second value says whether they were there.
pub(super) fn kept<T: Serialize + DeserializeOwned>(
    path: &Path,
    key: &str,
    work: impl FnOnce() -> Result<Vec<T>>,
) -> Result<(Vec<T>, bool)> {
    if let Some(values) = read(path, key) {
        return Ok((values, true));
    }
    let values = work()?;
    let mut text = json!({ "key": key, "rows": values.len() }).to_string() + "\n";
    for value in &values {
        text += &serde_json::to_string(value).map_err(|e| Error::format(path.display(), e))?;
        text.push('\n');
    }
    crate::file::write(path, text.as_bytes())?;
    Ok((values, false))
}

/// The values at `path`, if it is complete and was written under `key`; otherwise `None`, and the
/// caller recomputes them.
fn read<T: DeserializeOwned>(path: &Path, key: &str) -> Option<Vec<T>> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let head: Value = serde_json::from_str(lines.next()?).ok()?;
    let values: Vec<T> = { lines }
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .ok()?;
    let whole = head["rows"] == json!(values.len());
    (head["key"] == key && whole).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_results_under_the_same_key_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.jsonl");
        let get = |key: &str, made: [u32; 2]| kept(&path, key, || Ok(made.to_vec())).unwrap();
        assert_eq!(get("a", [1, 2]), (vec![1, 2], false));
        assert_eq!(get("a", [3, 4]), (vec![1, 2], true));
        assert_eq!(get("b", [3, 4]), (vec![3, 4], false));
        assert_eq!(get("a", [1, 2]), (vec![1, 2], false));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end().rsplit_once('\n').unwrap().0).unwrap();
        assert_eq!(get("a", [5, 6]), (vec![5, 6], false));
    }
}
