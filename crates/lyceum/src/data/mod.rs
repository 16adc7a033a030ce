//! Examples, how they become tokens, and multiple-choice questions.

mod around;
mod arrow;
mod choice;
mod configs;
mod cuts;
mod files;
mod format;
#[cfg(feature = "remote")]
mod hub;
mod json;
mod jsonl;
mod layout;
#[cfg_attr(not(feature = "parquet"), path = "parquet_disabled.rs")]
mod parquet;
mod pattern;
mod pieces;
mod prompt;
mod row;
mod source;
mod stream;
mod tokens;
mod walk;

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use around::{Around, object, token};
pub use choice::Question;
pub(crate) use pieces::{Vocabulary, Words, byte_level};
pub use prompt::join;
pub use stream::TextStream;
pub use tokens::{Tokenizer, Tokens};

use self::row::Rows;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::Session;

/// Why a file is refused; the entry point adds which.
type Why<T> = std::result::Result<T, String>;

/// The part of the data a row belongs to.
///
/// ```
/// use lyceum::data::Split;
///
/// assert_eq!("valid".parse::<Split>()?, Split::Validation);
/// assert!("all".parse::<Split>().is_err());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose by.
    Validation,
    /// To report on.
    Test,
}

impl std::str::FromStr for Split {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "train" => Ok(Split::Train),
            "validation" | "valid" | "val" | "dev" => Ok(Split::Validation),
            "test" => Ok(Split::Test),
            other => Err(Error::invalid(format!(
                "split `{other}` is not train, validation or test"
            ))),
        }
    }
}

/// One row: a prompt and its accepted answers.
///
/// ```
/// use lyceum::data::{Dataset, Example};
///
/// let rows = br#"{"source":"2 + 2 =","target":["4","four"],"task_name":"sums","split":"test"}"#;
/// let example: &Example = &Dataset::from_jsonl(rows, "sums.jsonl")?.examples[0];
/// assert_eq!(example.target, "4");
/// assert_eq!(example.references, ["4", "four"]);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The prompt.
    pub source: String,
    /// The answer to learn.
    pub target: String,
    /// All accepted answers.
    pub references: Vec<String>,
    /// Its task.
    pub task: Name,
    /// The collection the task is from (P3, Flan2021, ...).
    pub task_source: String,
    /// The kind of prompt template (zs_opt, ...).
    pub template_type: String,
    /// The split it belongs to.
    pub split: Split,
}

/// Examples of some tasks.
///
/// ```
/// use lyceum::data::{Dataset, Split};
///
/// let rows = br#"{"source":"2 + 2 =","target":"4","task_name":"sums","split":"test"}"#;
/// let data = Dataset::from_jsonl(rows, "sums.jsonl")?;
/// let test = data.split(Split::Test)?;
/// assert_eq!((test[0].task.as_str(), test[0].target.as_str()), ("sums", "4"));
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// All rows, in the order of the files.
    pub examples: Vec<Example>,
    /// Notes about rows left out or replaced while reading, one line each.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Reads the rows at `path`, where rows without a `split` belong to the one that the name of
    /// their file or folder says.
    ///
    /// It is a file: JSON lines or a list (`.jsonl`, `.json`, also as `.gz`, `.zst`, `.bz2`),
    /// parquet or Arrow; or a folder, with all such files below it in the order of their paths: a
    /// clone of a hub's repository, whose README may say in `configs` which files are meant, what
    /// `datasets` saved (`save_to_disk`), or any other; or a data set of a hub,
    /// `hf://datasets/owner/name[@revision][/path]`, read as its clone would be.
    ///
    /// # Errors
    /// When a file is missing or a row malformed; the error names file, row and field.
    pub fn open(path: &Path) -> Result<Self> {
        Dataset::open_with(path, &Session::from_env())
    }

    /// As [`Dataset::open`], with the cache and the credentials of `session`.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_with(path: &Path, session: &Session) -> Result<Self> {
        let found = files::find(path, session)?;
        let mut rows = Rows::default();
        for file in &found.files {
            file.read(found.loose, &mut rows)?;
        }
        let mut notes = found.notes;
        notes.extend(rows.note());
        let why = "without rows (nothing there has `source`, `target` or `task_name`)";
        notes.extend(layout::note(&rows.without, why));
        if rows.examples.is_empty() {
            let all = notes.iter().map(|note| format!("; {note}"));
            let why = all.fold("it holds no example".to_owned(), |why, note| why + &note);
            return Err(Error::format(path.display(), why));
        }
        Ok(Dataset {
            examples: rows.examples,
            notes,
        })
    }

    /// Reads rows from the bytes of a file of JSON lines, or of a list; `what` names them in
    /// errors.
    ///
    /// # Errors
    /// When a row is malformed.
    pub fn from_jsonl(bytes: &[u8], what: &str) -> Result<Self> {
        let mut rows = Rows::default();
        let input = jsonl::Input {
            bytes,
            what,
            loose: false,
        };
        jsonl::read(input, None, &mut rows)?;
        Ok(Dataset {
            notes: rows.note().into_iter().collect(),
            examples: rows.examples,
        })
    }

    /// The tasks, sorted.
    pub fn tasks(&self) -> Vec<Name> {
        let all: std::collections::BTreeSet<&Name> =
            self.examples.iter().map(|e| &e.task).collect();
        all.into_iter().cloned().collect()
    }

    /// Returns the rows of `split`, in file order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a task without such rows.
    pub fn split(&self, split: Split) -> Result<Vec<Example>> {
        self.select(&self.tasks(), split)
    }

    /// Returns the rows of `tasks` in `split`, in file order.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown task, [`Error::Invalid`] for a task without such rows.
    pub fn select(&self, tasks: &[Name], split: Split) -> Result<Vec<Example>> {
        let known = self.tasks();
        for task in tasks {
            if !known.contains(task) {
                let names = known.iter().map(Name::as_str);
                return Err(Error::not_found("task", task.as_str(), names));
            }
            if !self
                .examples
                .iter()
                .any(|e| e.task == *task && e.split == split)
            {
                let text = format!("task `{task}` has no row in split {split:?}").to_lowercase();
                return Err(Error::invalid(text));
            }
        }
        let chosen = self
            .examples
            .iter()
            .filter(|e| e.split == split && tasks.contains(&e.task));
        Ok(chosen.cloned().collect())
    }

    /// Keeps the first `n` rows of each task in each split.
    ///
    /// ```
    /// use lyceum::prelude::*;
    ///
    /// let few = lyceum::assets::tasks()?.take_per_task(4);
    /// assert_eq!(few.split(Split::Test)?.len(), 4 * few.tasks().len());
    /// # Ok::<(), lyceum::Error>(())
    /// ```
    #[must_use]
    pub fn take_per_task(mut self, n: usize) -> Self {
        let mut seen = std::collections::BTreeMap::<_, usize>::new();
        self.examples.retain(|e| {
            let count = seen.entry((e.task.clone(), e.split)).or_default();
            *count += 1;
            *count <= n
        });
        self
    }

    /// Hex SHA-256 over all rows.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for e in &self.examples {
            let fields = (&e.source, &e.references, &e.task, e.split);
            hash.update(serde_json::to_string(&fields).unwrap_or_default());
        }
        crate::digest::hex(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"source":"a?","target":["x","y"],"task_name":"t-1","split":"dev"}"#;

    #[test]
    fn rows_are_read_and_selected() {
        let data = Dataset::from_jsonl(ROW.as_bytes(), "rows").unwrap();
        let task = Name::new("t_1").unwrap();
        assert_eq!(data.tasks(), std::slice::from_ref(&task));
        let rows = data
            .select(std::slice::from_ref(&task), Split::Validation)
            .unwrap();
        assert_eq!(
            (rows[0].target.as_str(), rows[0].references.len()),
            ("x", 2)
        );
        let error = data.select(&[task], Split::Test).unwrap_err().to_string();
        assert!(error.contains("t_1") && error.contains("test"), "{error}");
        let unknown = [Name::new("t_2").unwrap()];
        let error = data.select(&unknown, Split::Test).unwrap_err().to_string();
        assert!(error.contains("did you mean t_1"), "{error}");
    }

    #[test]
    fn a_bad_row_is_named() {
        for bad in [
            ROW.replace("a?", " "),
            ROW.replace("dev", "other"),
            ROW.replace("[\"x\",\"y\"]", "[]"),
            "{".to_owned(),
        ] {
            let text = format!("{ROW}\n\n{bad}\n");
            let error = Dataset::from_jsonl(text.as_bytes(), "rows").unwrap_err();
            assert!(error.to_string().contains("rows:3"), "{error}");
        }
    }
}
