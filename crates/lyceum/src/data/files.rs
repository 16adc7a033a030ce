//! Finds the files of rows at a path: a file, a folder, a clone of a hub's repository.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::configs::{self, README};
use super::format::{self, Format};
use super::jsonl::{self, Input};
use super::layout::{Layout, Listing};
use super::row::Rows;
use super::{Split, arrow, parquet, source, walk};
use crate::error::{Error, Result};
use crate::store::{Address, Session};

/// A file of rows.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    format: Format,
    /// The split of rows that name none.
    split: Option<Split>,
}

/// The files of rows at a path.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) files: Vec<File>,
    /// Notes about files left out, one line each.
    pub(super) notes: Vec<String>,
    /// `true` if the files were found by search rather than named, so that some may hold no rows.
    pub(super) loose: bool,
}

impl File {
    fn new(path: PathBuf, split: Option<Split>) -> Result<Self> {
        let format = path.to_str().and_then(format::of);
        // A name that is not UTF-8 still has an ending.
        let format = format.or_else(|| format::of(&path.to_string_lossy()));
        let why = format!(
            "rows are not read from a file of this kind, but from {}",
            format::READ
        );
        Ok(File {
            format: format.ok_or_else(|| Error::format(path.display(), why))?,
            path,
            split,
        })
    }

    /// Adds its rows. One without any is an error or taken note of: `loose` says that nobody
    /// named it.
    pub(super) fn read(&self, loose: bool, rows: &mut Rows) -> Result<()> {
        let (path, split, before) = (&self.path, self.split, rows.examples.len());
        let what = path.display().to_string();
        self.pointer()?;
        match self.format {
            Format::Parquet => parquet::read(path, split, &mut rows.examples)?,
            Format::Arrow => arrow::read(path, split, &mut rows.examples)?,
            Format::Json => {
                let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
                let input = Input {
                    bytes: &bytes,
                    what: &what,
                    // Lines of JSON are rows; other JSON may be anything.
                    loose: loose && !format::lines(&what),
                };
                jsonl::read(input, split, rows)?;
            }
        }
        if loose && rows.examples.len() == before {
            rows.without.push(what);
        }
        Ok(())
    }

    /// An error for a file that only stands for the data.
    fn pointer(&self) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let mut start = Vec::new();
        let file = std::fs::File::open(&self.path).map_err(io)?;
        file.take(source::LFS.len() as u64)
            .read_to_end(&mut start)
            .map_err(io)?;
        match start == source::LFS {
            true => Err(Error::format(self.path.display(), source::POINTER)),
            false => Ok(()),
        }
    }
}

/// The files of rows at `path`.
///
/// # Errors
/// When there is nothing, or it holds none.
pub(super) fn find(path: &Path, session: &Session) -> Result<Found> {
    if let Some(address) = crate::store::hub_at(path)? {
        let (folder, layout) = fetched(&address, session)?;
        return found(layout, |path| folder.join(path), None);
    }
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // What is not there may be a configuration of the folder above.
        Err(error) => match configuration(path) {
            Some((folder, name)) => return folder_of(folder, Some(name)),
            None => return Err(Error::io(path, error)),
        },
    };
    if metadata.is_dir() {
        return folder_of(&cached(path)?, None);
    }
    // The names of the file and of the folder it is in say of which split it is.
    let parent = path.parent().and_then(Path::file_name);
    let names = [parent, path.file_name()].map(|name| name.unwrap_or_default().to_string_lossy());
    Ok(Found {
        files: vec![File::new(
            path.to_owned(),
            configs::by_name(&names.join("/")),
        )?],
        notes: Vec::new(),
        loose: false,
    })
}

fn folder_of(folder: &Path, config: Option<&str>) -> Result<Found> {
    let files = walk::files(folder)?;
    let read = |path: &str| {
        let file = files
            .get(path)
            .cloned()
            .unwrap_or_else(|| folder.join(path));
        std::fs::read(&file).map_err(|e| Error::io(file, e))
    };
    let place = Listing {
        paths: files.keys().map(String::as_str).collect(),
        read: &read,
    };
    let layout = place.layout("", config)?;
    if layout.held.is_empty() {
        return Err(layout.empty(&folder.display().to_string()));
    }
    let own = folder.file_name().map(|name| name.to_string_lossy());
    let split = own.and_then(|name| configs::by_name(&name));
    let path = |path: &str| {
        files
            .get(path)
            .cloned()
            .unwrap_or_else(|| folder.join(path))
    };
    found(layout, path, split)
}

/// The files of `layout`, where `path` says; those that nothing else speaks of belong to `split`.
fn found(layout: Layout, path: impl Fn(&str) -> PathBuf, split: Option<Split>) -> Result<Found> {
    let file = |(below, own): configs::Held| File::new(path(&below), own.or(split));
    Ok(Found {
        files: layout.held.into_iter().map(file).collect::<Result<_>>()?,
        notes: layout.notes,
        loose: true,
    })
}

/// The folder above `path`, if its README speaks of configurations, and the name of `path`, which
/// is then to be one of them.
fn configuration(path: &Path) -> Option<(&Path, &str)> {
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let readme = std::fs::read(folder.join(README)).ok()?;
    configs::are_in(&String::from_utf8_lossy(&readme)).then_some((folder, name))
}

/// The folder of the data that `folder` is, or is the repository of in the hub's own cache
/// (`datasets--ORG--NAME`): then that of its `main`.
fn cached(folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let snapshots = folder.join("snapshots");
    if !name.is_some_and(|name| name.starts_with("datasets--")) || !snapshots.is_dir() {
        return Ok(folder.to_owned());
    }
    let main = std::fs::read_to_string(folder.join("refs/main")).unwrap_or_default();
    let main = Some(main.trim()).filter(|main| main.bytes().all(|c| c.is_ascii_hexdigit()));
    match main.filter(|main| !main.is_empty()) {
        Some(main) => Ok(snapshots.join(main)),
        None => Err(Error::format(
            folder.display(),
            "it has no `main`; name one of the folders in its `snapshots`",
        )),
    }
}

#[cfg(feature = "remote")]
fn fetched(address: &Address, session: &Session) -> Result<(PathBuf, Layout)> {
    super::hub::fetch(address, session)
}

#[cfg(not(feature = "remote"))]
fn fetched(address: &Address, _: &Session) -> Result<(PathBuf, Layout)> {
    Err(crate::store::without(address))
}
