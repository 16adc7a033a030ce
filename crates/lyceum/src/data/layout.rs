//! Which files of a folder or repository hold rows, and of which split: by what `datasets` wrote
//! there, by the README, by names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::configs::{self, Held, README};
use super::{Split, format};
use crate::error::{Error, Result};

/// Names that a note or an error shows.
const SHOWN: usize = 3;

/// The files of a place, wherever that is.
pub(super) struct Place<'a> {
    /// Their paths, sorted, with `/` between the parts.
    pub(super) paths: Vec<&'a str>,
    /// Reads one of them.
    pub(super) read: &'a dyn Fn(&str) -> Result<Vec<u8>>,
}

/// What a place holds.
#[derive(Debug)]
pub(super) struct Layout {
    /// The files of rows.
    pub(super) held: Vec<Held>,
    /// What was left out, a line each.
    pub(super) notes: Vec<String>,
}

impl Layout {
    /// An error about the place `what`, in which no file of rows is.
    pub(super) fn empty(&self, what: &str) -> Error {
        let why = format!("it holds no rows: none of {}", format::READ);
        let notes = self.notes.iter().map(|note| format!("; {note}"));
        Error::format(what, notes.fold(why, |why, note| why + &note))
    }
}

/// `state.json` of a folder that `Dataset.save_to_disk` wrote.
#[derive(Debug, Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    files: Vec<StateFile>,
    #[serde(rename = "_indices_data_files", default)]
    indices: Option<Vec<StateFile>>,
    #[serde(rename = "_split", default)]
    split: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StateFile {
    filename: String,
}

/// `dataset_dict.json` of a folder that `DatasetDict.save_to_disk` wrote.
#[derive(Debug, Deserialize)]
struct Dict {
    splits: Vec<String>,
}

impl Place<'_> {
    /// What this place holds at `root`, a file or folder of it, everything when empty; `config`
    /// names one of the configurations of its README.
    ///
    /// # Errors
    /// When what describes the files cannot be understood or speaks of others.
    pub(super) fn layout(&self, root: &str, config: Option<&str>) -> Result<Layout> {
        let below = |path: &&&str| {
            let rest = path.strip_prefix(root);
            let rest =
                rest.filter(|rest| root.is_empty() || rest.is_empty() || rest.starts_with('/'));
            rest.is_some_and(|rest| !rest.split('/').any(format::hidden))
        };
        let seen: Vec<&str> = self.paths.iter().filter(below).copied().collect();
        let mut left = Vec::new();
        let (seen, told) = self.saved(seen, &mut left)?;
        let readme = match root.is_empty() && self.paths.binary_search(&README).is_ok() {
            true => Some(String::from_utf8_lossy(&(self.read)(README)?).into_owned()),
            false => None,
        };
        let chosen = configs::files(&seen, readme.as_deref(), config)?;
        let split = |(path, split): Held| {
            let told = told.get(folder(&path).unwrap_or_default()).copied();
            (path, split.or(told))
        };
        let held: Vec<Held> = chosen.held.into_iter().map(split).collect();
        let unread = seen.iter().filter(|path| format::may_hold_rows(path));
        left.extend(unread.map(|path| (*path).to_owned()));
        left.sort();
        let mut notes = chosen.notes;
        notes.extend(note(
            &left,
            &format!("of kinds that are not read (rows are in {})", format::READ),
        ));
        Ok(Layout { held, notes })
    }

    /// Of the files `seen` those that belong to the data where `save_to_disk` wrote it, and the
    /// splits of its folders. Rows that do not belong to it go to `left`.
    fn saved<'b>(
        &self,
        seen: Vec<&'b str>,
        left: &mut Vec<String>,
    ) -> Result<(Vec<&'b str>, BTreeMap<String, Split>)> {
        let (mut kept, mut told) = (seen, BTreeMap::new());
        for path in named(&kept, "dataset_dict.json") {
            let dict: Dict = self.described(path)?;
            let above = folder(path)
                .map(|folder| format!("{folder}/"))
                .unwrap_or_default();
            for split in &dict.splits {
                let there = format!("{above}{split}/");
                if !kept.iter().any(|path| path.starts_with(&there)) {
                    let why = format!("it names the split `{split}`, and there is no such folder");
                    return Err(Error::format(path, why));
                }
            }
            kept.retain(|path| {
                let rest = path.strip_prefix(above.as_str());
                let part = rest.and_then(|rest| rest.split_once('/'));
                let other = part.is_some_and(|(part, _)| !dict.splits.iter().any(|s| s == part));
                if other && format::rows(path) {
                    left.push((*path).to_owned());
                }
                !other
            });
        }
        for path in named(&kept, "state.json") {
            let here = folder(path);
            let arrow = |path: &str| {
                format::of(path) == Some(format::Format::Arrow) && folder(path) == here
            };
            if !kept.iter().any(|path| arrow(path)) {
                // Another tool's.
                continue;
            }
            let state: State = self.described(path)?;
            if state.indices.is_some_and(|files| !files.is_empty()) {
                let why = "the rows were saved with an index over them, which is not read; open it \
                           with `datasets`, call flatten_indices() and save it again";
                return Err(Error::format(path, why));
            }
            let files: BTreeSet<&str> = state.files.iter().map(|file| &*file.filename).collect();
            for file in &files {
                let there = { here }.map_or((*file).to_owned(), |here| format!("{here}/{file}"));
                if kept.binary_search(&there.as_str()).is_err() {
                    return Err(Error::format(
                        path,
                        format!("it names `{file}`, which is not there"),
                    ));
                }
            }
            kept.retain(|path| {
                let other = arrow(path) && !files.contains(path.rsplit('/').next().unwrap_or(path));
                if other && format::rows(path) {
                    left.push((*path).to_owned());
                }
                !other
            });
            let split = state.split.as_deref().and_then(configs::by_name);
            if let (Some(here), Some(split)) = (here.or(Some("")), split) {
                told.insert(here.to_owned(), split);
            }
        }
        Ok((kept, told))
    }

    fn described<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&(self.read)(path)?)
            .map_err(|_| Error::format(path, "it is not as `datasets` writes it (save_to_disk)"))
    }
}

/// The folder a path is in.
fn folder(path: &str) -> Option<&str> {
    Some(path.rsplit_once('/')?.0)
}

fn named<'b>(paths: &[&'b str], name: &str) -> Vec<&'b str> {
    let is = |path: &&&str| path.rsplit('/').next() == Some(name);
    paths.iter().filter(is).copied().collect()
}

/// The line that says that `files` were left out, for they are `why`.
pub(super) fn note(files: &[String], why: &str) -> Option<String> {
    let (n, first) = (files.len(), files.get(..SHOWN).unwrap_or(files).join(", "));
    match n {
        0 => None,
        1 => Some(format!("left out 1 file {why}: {first}")),
        n if n > SHOWN => Some(format!("left out {n} files {why}: {first}, ...")),
        n => Some(format!("left out {n} files {why}: {first}")),
    }
}
