//! Multiple-choice questions: JSON rows of `query`, `choices`, `gold`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Why;
use super::json::Json;
use super::jsonl::Input;
use crate::error::{Error, Result};

const FIELDS: [&str; 3] = ["query", "choices", "gold"];

/// A question with its options.
///
/// ```
/// use lyceum::data::Question;
///
/// let row = br#"{"query":"What is wet?","choices":["water","stone"],"gold":0}"#;
/// let questions = Question::from_jsonl(row, "questions.jsonl")?;
/// assert_eq!(questions[0].choices[questions[0].gold], "water");
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The text before each option; options are scored alone if it is empty.
    pub query: String,
    /// The options.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub gold: usize,
}

impl Question {
    /// Reads all questions of a file: JSON lines or a list, also packed (gzip, zstd, bzip2).
    ///
    /// # Errors
    /// When it is missing, a row malformed, or there is none; the error names file, line and
    /// field.
    pub fn open(path: &Path) -> Result<Vec<Question>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let all = Question::from_jsonl(&bytes, &path.display().to_string())?;
        match all.is_empty() {
            true => Err(Error::format(path.display(), "has no questions")),
            false => Ok(all),
        }
    }

    /// Hex SHA-256 over `questions`, in their order.
    pub fn fingerprint(questions: &[Question]) -> String {
        let mut hash = Sha256::new();
        for q in questions {
            let fields = (&q.query, &q.choices, q.gold);
            hash.update(serde_json::to_string(&fields).unwrap_or_default());
        }
        crate::digest::hex(hash.finalize())
    }

    /// Reads questions from the bytes of such a file; `what` names them in errors.
    ///
    /// # Errors
    /// When a row is malformed.
    pub fn from_jsonl(bytes: &[u8], what: &str) -> Result<Vec<Question>> {
        let mut all = Vec::new();
        let input = Input {
            bytes,
            what,
            loose: false,
        };
        input.read(&FIELDS, &mut |json, place| {
            let question = question(json).and_then(checked);
            all.push(question.map_err(|why| place.error(json, &why))?);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Reads a text that holds what it held when it was written.
fn text(json: &mut Json<'_>, name: &str) -> Why<String> {
    if json.peek() != Some(b'"') {
        return Err(format!("{name} is {}; expected a text", json.shown()));
    }
    let text = json.string()?;
    match text.broken {
        true => Err(format!("{name} has an unpaired surrogate")),
        false => Ok(text.text),
    }
}

fn question(json: &mut Json<'_>) -> Why<Question> {
    let (mut query, mut choices, mut gold) = (None, None, None);
    json.object(|json, name| {
        let again = match name {
            "query" => query.replace(text(json, "`query`")?).is_some(),
            "choices" => {
                if json.peek() != Some(b'[') {
                    let shown = json.shown();
                    return Err(format!("`choices` is {shown}; expected a list of texts"));
                }
                let mut all = Vec::new();
                json.list(|json, number| {
                    all.push(text(json, &format!("item {number} of `choices`"))?);
                    Ok(())
                })?;
                choices.replace(all).is_some()
            }
            "gold" => {
                let shown = json.shown();
                let index = json.whole().map_err(|_| {
                    format!("`gold` is {shown}; expected the index of an option, from 0")
                })?;
                gold.replace(index).is_some()
            }
            _ => return json.skip(),
        };
        match again {
            true => Err(format!("`{name}` is there twice")),
            false => Ok(()),
        }
    })?;
    let missing = |name: &str| format!("the field `{name}` is missing");
    Ok(Question {
        query: query.ok_or_else(|| missing("query"))?,
        choices: choices.ok_or_else(|| missing("choices"))?,
        gold: gold.ok_or_else(|| missing("gold"))?,
    })
}

fn checked(question: Question) -> Why<Question> {
    let n = question.choices.len();
    if let Some(i) = question.choices.iter().position(String::is_empty) {
        return Err(format!("item {} of `choices` is empty", i + 1));
    }
    if n < 2 {
        return Err(format!(
            "`choices` has {n} options; a question needs two at least"
        ));
    }
    match question.gold < n {
        true => Ok(question),
        false => Err(format!(
            "`gold` is {}, and there are {n} options: it counts them from 0",
            question.gold
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"id": NaN, "query": "q", "choices": ["a", "b"], "gold": 1}"#;

    fn read(bytes: &[u8]) -> Result<Vec<Question>> {
        Question::from_jsonl(bytes, "file")
    }

    #[test]
    fn questions_are_read_from_lines_lists_and_packed() {
        let good = read(format!("\u{feff}{ROW}\r\n{ROW}").as_bytes()).unwrap();
        assert_eq!((good.len(), good[0].gold), (2, 1));
        assert_eq!(read(format!("[{ROW},\n{ROW}]").as_bytes()).unwrap(), good);
        let lines = format!("{ROW}\n{ROW}\n");
        let packed = zstd::bulk::compress(lines.as_bytes(), 1).unwrap();
        assert_eq!(read(&packed).unwrap(), good);
    }

    #[test]
    fn a_bad_question_is_named_with_file_row_and_field() {
        for (from, to, why) in [
            ("\"q\"", "null", "`query` is null; expected a text"),
            ("\"q\"", r#""\ud83d""#, "`query` has an unpaired surrogate"),
            (
                "[\"a\", \"b\"]",
                "\"a\"",
                "`choices` is a text; expected a list",
            ),
            ("\"a\",", "3,", "item 1 of `choices` is the number 3"),
            ("\"a\",", "\"\",", "item 1 of `choices` is empty"),
            ("\"a\", ", "", "`choices` has 1 options"),
            ("1}", "2}", "`gold` is 2, and there are 2 options"),
            ("1}", "-1}", "`gold` is the number -1; expected the index"),
            ("1}", "\"1\"}", "`gold` is a text"),
            ("1}", "1.0}", "`gold` is the number 1.0"),
            ("\"gold\"", "\"answer\"", "the field `gold` is missing"),
            ("\"id\": NaN", "\"query\": \"p\"", "`query` is there twice"),
        ] {
            let bad = ROW.replace(from, to);
            for (text, at) in [
                (format!("{ROW}\n{bad}\n"), "file:2: "),
                (format!("[{ROW},\n{bad}]"), "file:2 (row 2): "),
            ] {
                let error = read(text.as_bytes()).unwrap_err().to_string();
                assert_eq!(error.find(at), Some(0), "{error}");
                assert!(error.contains(why), "{error}");
            }
        }
    }
}
