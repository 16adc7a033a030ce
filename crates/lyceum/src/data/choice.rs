//! Multiple-choice questions: JSON lines of `query`, `choices`, `gold`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A question with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What stands before an option.
    pub query: String,
    /// The options.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub gold: usize,
}

impl Question {
    /// Reads all questions of a file.
    ///
    /// # Errors
    /// When it is missing or a line malformed; the error names file and line.
    pub fn open(path: &Path) -> Result<Vec<Question>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Question::from_jsonl(&bytes, &path.display().to_string())
    }

    /// Hex SHA-256 over `questions`, in their order.
    pub fn fingerprint(questions: &[Question]) -> String {
        let mut hash = Sha256::new();
        for q in questions {
            let fields = (&q.query, &q.choices, q.gold);
            hash.update(serde_json::to_string(&fields).unwrap_or_default());
        }
        let hash = hash.finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads questions from JSON lines in memory; `what` names them in errors.
    ///
    /// # Errors
    /// When a line is malformed.
    pub fn from_jsonl(bytes: &[u8], what: &str) -> Result<Vec<Question>> {
        let mut all = Vec::new();
        for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let bad = |why: String| Error::format(format!("{what}:{}", i + 1), why);
            let question: Question =
                serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
            if question.query.is_empty() || question.choices.iter().any(String::is_empty) {
                return Err(bad("the query or an option is empty".into()));
            }
            if question.choices.len() < 2 || question.gold >= question.choices.len() {
                return Err(bad(
                    "`gold` must be the index of one of two or more options".into(),
                ));
            }
            all.push(question);
        }
        Ok(all)
    }
}
