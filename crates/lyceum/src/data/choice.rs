//! Multiple-choice questions: JSON lines of `query`, `choices`, `gold`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A question with its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What stands before an option; may be empty, then options are scored alone.
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

    /// Reads questions from JSON lines in memory; `what` names them in errors.
    ///
    /// # Errors
    /// When a line is malformed.
    pub fn from_jsonl(bytes: &[u8], what: &str) -> Result<Vec<Question>> {
        let mut all = Vec::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let bad = |why: String| Error::format(format!("{what}:{}", i + 1), why);
            let question = Question::parse(line).map_err(&bad)?;
            if question.choices.iter().any(String::is_empty) {
                return Err(bad("an option is empty".into()));
            }
            if question.choices.len() < 2 || question.gold >= question.choices.len() {
                return Err(bad(
                    "`gold` must be the index of one of two or more options".into(),
                ));
            }
            all.push(question);
        }
        if all.is_empty() {
            return Err(Error::format(what, "holds no question"));
        }
        Ok(all)
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| format!("is not valid JSON (column {})", e.column()))?;
        let field = |name: &str, what: &str| match value.get(name) {
            Some(value) => Ok(value.clone()),
            None => Err(format!("`{name}` is missing; it must be {what}")),
        };
        let text = |name: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("`{name}` holds {other}, which is no text")),
        };
        let query = text("query", field("query", "the text before an option")?)?;
        let Value::Array(choices) = field("choices", "a list of texts")? else {
            return Err("`choices` must be a list of texts".into());
        };
        let choices = choices.into_iter().map(|choice| text("choices", choice));
        let choices = choices.collect::<Result<_, _>>()?;
        let gold = field("gold", "the index of the right option")?.as_u64();
        let gold = gold.ok_or("`gold` must be the index of the right option, from 0")?;
        Ok(Question {
            query,
            choices,
            gold: usize::try_from(gold).unwrap_or(usize::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_question_is_named_with_its_line_and_field() {
        let good = r#"{"query":"","choices":["a","b"],"gold":1,"more":null}"#;
        let read = |text: &str| Question::from_jsonl(text.as_bytes(), "q");
        let all = read(&format!("\u{feff}{good}\n\n{good}\n")).unwrap();
        assert_eq!((all.len(), all[1].query.as_str(), all[1].gold), (2, "", 1));
        for (from, to, what) in [
            ("\"gold\":1", "\"gold\":2", "`gold` must be the index"),
            ("\"gold\":1", "\"gold\":-1", "from 0"),
            ("\"gold\":1", "\"other\":1", "`gold` is missing"),
            ("\"query\":\"\"", "\"query\":null", "`query` holds null"),
            ("\"b\"", "3", "`choices` holds 3"),
            ("\"b\"", "\"\"", "an option is empty"),
            ("}", "", "not valid JSON"),
        ] {
            let why = read(&format!("{good}\n{}", good.replace(from, to))).unwrap_err();
            let why = why.to_string();
            assert!(why.contains("q:2") && why.contains(what), "{why}");
        }
        assert!(read("\n").unwrap_err().to_string().contains("no question"));
    }
}
