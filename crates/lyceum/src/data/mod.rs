//! Examples, how they become tokens, and multiple-choice questions.

mod around;
mod choice;
mod configs;
mod cuts;
#[cfg(feature = "remote")]
mod hub;
mod jsonl;
mod parquet;
mod pieces;
mod prompt;
mod sentencepiece;
mod stream;
mod tokens;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use around::{Around, object, token};
pub use choice::Question;
pub(crate) use pieces::{Kind, Piece, Vocabulary, Words, byte_level};
pub use prompt::join;
pub use stream::TextStream;
pub use tokens::{Tokenizer, Tokens};

use crate::error::{Error, Result};
use crate::name::Name;

/// The part of the data a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How its prompt was made (zs_opt, ...).
    pub template_type: String,
    /// Where it belongs.
    pub split: Split,
}

/// A row as files hold it.
#[derive(Debug, Default, Deserialize)]
struct Row {
    source: String,
    target: Target,
    task_name: String,
    #[serde(default)]
    task_source: String,
    #[serde(default)]
    template_type: String,
    #[serde(default)]
    split: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Target {
    One(String),
    Many(Vec<String>),
}

impl Default for Target {
    fn default() -> Self {
        Target::One(String::new())
    }
}

impl Row {
    /// `split` is where the row belongs unless it says so itself.
    fn example(self, split: Option<Split>) -> Result<Example> {
        if self.source.trim().is_empty() {
            return Err(Error::invalid("`source` is empty"));
        }
        let references = match self.target {
            Target::One(target) => vec![target],
            Target::Many(targets) => targets,
        };
        let target = references
            .first()
            .cloned()
            .ok_or_else(|| Error::invalid("no `target`"))?;
        // As MTTL cleans task names.
        let task: String = self
            .task_name
            .chars()
            .map(|c| if ":/-. ".contains(c) { '_' } else { c })
            .collect();
        Ok(Example {
            source: self.source,
            target,
            references,
            task: Name::new(&task)?,
            task_source: self.task_source,
            template_type: self.template_type,
            split: match (self.split.as_deref(), split) {
                (Some(own), _) => own.parse()?,
                (None, Some(split)) => split,
                (None, None) => {
                    return Err(Error::invalid(
                        "no `split`, and the file's name does not say one (train, validation, \
                         test)",
                    ));
                }
            },
        })
    }
}

/// Examples of some tasks.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// All rows, in the order of the files.
    pub examples: Vec<Example>,
}

impl Dataset {
    /// Reads a `.jsonl` or `.parquet` file, all such files of a folder in the order of their
    /// names, or a data set of a hub, `hf://datasets/owner/name[@revision][/path]`. Rows without
    /// a `split` belong to the one their file is of.
    ///
    /// # Errors
    /// When a file is missing or a row malformed; the error names file and row.
    pub fn open(path: &Path) -> Result<Self> {
        let mut examples = Vec::new();
        for (file, split) in found(path)? {
            match file.extension().and_then(|e| e.to_str()) {
                Some("jsonl") => {
                    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
                    let what = file.display().to_string();
                    jsonl::read(&bytes, (&what, split), &mut examples)?;
                }
                Some("parquet") => parquet::read(&file, split, &mut examples)?,
                _ => {
                    return Err(Error::format(
                        file.display(),
                        "not a .jsonl or .parquet file",
                    ));
                }
            }
        }
        if examples.is_empty() {
            return Err(Error::format(path.display(), "holds no example"));
        }
        Ok(Dataset { examples })
    }

    /// Reads rows from JSON lines in memory; `what` names them in errors.
    ///
    /// # Errors
    /// When a row is malformed.
    pub fn from_jsonl(bytes: &[u8], what: &str) -> Result<Self> {
        let mut examples = Vec::new();
        jsonl::read(bytes, (what, None), &mut examples)?;
        Ok(Dataset { examples })
    }

    /// The tasks, sorted.
    pub fn tasks(&self) -> Vec<Name> {
        let all: std::collections::BTreeSet<&Name> =
            self.examples.iter().map(|e| &e.task).collect();
        all.into_iter().cloned().collect()
    }

    /// The rows of `tasks` (all when absent) in `split`, in file order.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown task, [`Error::Invalid`] for a task without such rows.
    pub fn select(&self, tasks: Option<&[Name]>, split: Split) -> Result<Vec<Example>> {
        let known = self.tasks();
        let wanted = tasks.unwrap_or(&known);
        for task in wanted {
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
            .filter(|e| e.split == split && wanted.contains(&e.task));
        Ok(chosen.cloned().collect())
    }

    /// Hex SHA-256 over all rows.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for e in &self.examples {
            let fields = (&e.source, &e.references, &e.task, e.split);
            hash.update(serde_json::to_string(&fields).unwrap_or_default());
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The files at `path`, each with the split it is of, if that is known.
fn found(path: &Path) -> Result<Vec<(PathBuf, Option<Split>)>> {
    if let Some(address) = crate::store::hub_at(path)? {
        return fetched(&address);
    }
    if let Some(held) = described(path)? {
        return Ok(held);
    }
    let named = |file: PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str());
        let split = name.and_then(configs::by_name);
        (file, split)
    };
    Ok(files(path)?.into_iter().map(named).collect())
}

/// A data file, and the split its rows belong to if a README says so.
type Described = (PathBuf, Option<Split>);

/// The files of a folder whose README says in `configs` which there are; `None` for others.
fn described(path: &Path) -> Result<Option<Vec<Described>>> {
    let readme = match std::fs::read_to_string(path.join(configs::README)) {
        Ok(text) if configs::are_in(&text) => text,
        _ => return Ok(None),
    };
    let (mut files, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let path = entry.map_err(|e| Error::io(&folder, e))?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    let below = |file: &PathBuf| Some(file.strip_prefix(path).ok()?.to_str()?.to_owned());
    let below: Vec<String> = files.iter().filter_map(below).collect();
    let below: Vec<&str> = below.iter().map(String::as_str).collect();
    let held = configs::files(&below, Some(&readme), None)?;
    let held = held
        .into_iter()
        .map(|(file, split)| (path.join(file), split));
    Ok(Some(held.collect()))
}

#[cfg(feature = "remote")]
fn fetched(address: &crate::store::Address) -> Result<Vec<(PathBuf, Option<Split>)>> {
    let (folder, held) = hub::fetch(address)?;
    let file = |(path, split): configs::Held| (folder.join(path), split);
    Ok(held.into_iter().map(file).collect())
}

#[cfg(not(feature = "remote"))]
fn fetched(address: &crate::store::Address) -> Result<Vec<(PathBuf, Option<Split>)>> {
    Err(crate::store::without(address))
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        let file = entry.map_err(|e| Error::io(path, e))?.path();
        if file
            .extension()
            .is_some_and(|e| e == "jsonl" || e == "parquet")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
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
            .select(Some(std::slice::from_ref(&task)), Split::Validation)
            .unwrap();
        assert_eq!(
            (rows[0].target.as_str(), rows[0].references.len()),
            ("x", 2)
        );
        let error = data
            .select(Some(&[task]), Split::Test)
            .unwrap_err()
            .to_string();
        assert!(error.contains("t_1") && error.contains("test"), "{error}");
        let unknown = [Name::new("t_2").unwrap()];
        let error = data
            .select(Some(&unknown), Split::Test)
            .unwrap_err()
            .to_string();
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
