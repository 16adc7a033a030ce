//! Which files of a folder or repository hold rows, and of which split: by what `datasets` wrote
//! there, by the README, by names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Split;
use super::configs::{self, Held, README};
use super::format::{self, Format};
use crate::error::{Error, Result};

/// Names that a note or an error shows.
const SHOWN: usize = 3;

/// The files of a place, wherever that is.
pub(super) struct Listing<'a> {
    /// Their paths, sorted, with `/` between the parts.
    pub(super) paths: Vec<&'a str>,
    /// Reads one of them.
    pub(super) read: &'a dyn Fn(&str) -> Result<Vec<u8>>,
}

/// The files of rows at a place.
#[derive(Debug)]
pub(super) struct Layout {
    /// The files of rows.
    pub(super) held: Vec<Held>,
    /// Notes about files left out, one line each.
    pub(super) notes: Vec<String>,
}

impl Layout {
    /// An error about the place `what`, in which no file of rows is.
    pub(super) fn empty(&self, what: &str) -> Error {
        let why = format!("it has no rows: none of {}", format::READ);
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

impl Listing<'_> {
    /// The files of rows at `root`, a file or folder of this place, or the whole place when empty;
    /// `config` names one of the configurations of its README.
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
        let mut seen: Vec<&str> = self.paths.iter().filter(below).copied().collect();
        let mut left = Vec::new();
        self.splits(&mut seen, &mut left)?;
        let told = self.shards(&mut seen, &mut left)?;
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
        let unread: Vec<String> = unread.map(|path| (*path).to_owned()).collect();
        left.sort();
        let mut notes = chosen.notes;
        notes.extend(twice(&held));
        notes.extend(note(
            &left,
            "that dataset_dict.json or state.json do not name",
        ));
        notes.extend(note(&unread, "of kinds that are not read"));
        Ok(Layout { held, notes })
    }

    /// Of the files `kept` those in the splits that `dataset_dict.json` lists, wherever there is
    /// one. Rows that are in none go to `left`.
    fn splits(&self, kept: &mut Vec<&str>, left: &mut Vec<String>) -> Result<()> {
        for path in named(kept, "dataset_dict.json") {
            let dict: Dict = self.described(path)?;
            let above = folder(path).map(|folder| format!("{folder}/"));
            let above = above.unwrap_or_default();
            for split in &dict.splits {
                let there = format!("{above}{split}/");
                if !kept.iter().any(|path| path.starts_with(&there)) {
                    let why = format!("it names the split `{split}`, and there is no such folder");
                    return Err(Error::format(path, why));
                }
            }
            without(kept, left, |path| {
                let rest = path.strip_prefix(above.as_str());
                let part = rest.and_then(|rest| rest.split_once('/'));
                part.is_some_and(|(part, _)| !dict.splits.iter().any(|split| split == part))
            });
        }
        Ok(())
    }

    /// Of the files `kept` those that `state.json` lists, wherever there is one beside Arrow files;
    /// others of these go to `left`. Returns which folder is of which split, as far as it is said.
    fn shards(
        &self,
        kept: &mut Vec<&str>,
        left: &mut Vec<String>,
    ) -> Result<BTreeMap<String, Split>> {
        let mut told = BTreeMap::new();
        for path in named(kept, "state.json") {
            let here = folder(path);
            let arrow =
                |path: &str| format::of(path) == Some(Format::Arrow) && folder(path) == here;
            if !kept.iter().any(|path| arrow(path)) {
                // Another tool's.
                continue;
            }
            let state: State = self.described(path)?;
            if state.indices.is_some_and(|files| !files.is_empty()) {
                let why = "the rows were saved with an index over them, which is not read; open \
                           it with `datasets`, call flatten_indices() and save it again";
                return Err(Error::format(path, why));
            }
            let files: BTreeSet<&str> = state.files.iter().map(|file| &*file.filename).collect();
            for file in &files {
                let there = here.map_or((*file).to_owned(), |here| format!("{here}/{file}"));
                if kept.binary_search(&there.as_str()).is_err() {
                    let why = format!("it names `{file}`, which is not there");
                    return Err(Error::format(path, why));
                }
            }
            without(kept, left, |path| {
                arrow(path) && !files.contains(path.rsplit('/').next().unwrap_or(path))
            });
            if let Some(split) = state.split.as_deref().and_then(configs::by_name) {
                told.insert(here.unwrap_or_default().to_owned(), split);
            }
        }
        Ok(told)
    }

    fn described<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&(self.read)(path)?)
            .map_err(|_| Error::format(path, "it is not as `datasets` writes it (save_to_disk)"))
    }
}

/// Takes the files that are `other` out of `kept`; those of rows go to `left`.
fn without(kept: &mut Vec<&str>, left: &mut Vec<String>, other: impl Fn(&str) -> bool) {
    kept.retain(|path| {
        let other = other(path);
        if other && format::rows(path) {
            left.push((*path).to_owned());
        }
        !other
    });
}

/// The line that says that the same rows may be there twice, packed and not.
fn twice(held: &[Held]) -> Option<String> {
    let paths: BTreeSet<&str> = held.iter().map(|(path, _)| path.as_str()).collect();
    let packed = |path: &&&str| {
        let plain = format::unpacked(path);
        plain != **path && paths.contains(plain)
    };
    let path = paths.iter().find(packed)?;
    let plain = format::unpacked(path);
    Some(format!(
        "read both {plain} and {path}: their rows count twice if they are the same"
    ))
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
