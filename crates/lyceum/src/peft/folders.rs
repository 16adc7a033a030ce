//! The places adapters lie in: folders of one's own, and the cache of the Hugging Face hub.

use std::path::{Path, PathBuf};

use super::{CONFIG, OLD_WEIGHTS, WEIGHTS};
use crate::error::{Error, Result};
use crate::name::Name;

/// An adapter that was found.
#[derive(Debug)]
pub struct Found {
    /// Its folder.
    pub dir: PathBuf,
    /// Its name: its folder's, or its repository's in the hub's cache; or why that is none.
    pub name: Result<Name>,
    /// True if it could be taken under another name.
    pub nameable: bool,
}

/// The adapters at `source`: the folder itself; a repository in the hub's cache
/// (`models--ORG--NAME`), as of its `main`; or all of these that `source` holds, in the order of
/// their folders, hidden ones left out. Empty when there is none.
///
/// # Errors
/// When a folder cannot be listed.
pub fn find(source: &Path) -> Result<Vec<Found>> {
    if let Some(found) = adapter(source)? {
        return Ok(vec![found]);
    }
    inside(source)
}

/// The adapters that folders in `dir` hold.
///
/// # Errors
/// When a folder cannot be listed.
pub(super) fn inside(dir: &Path) -> Result<Vec<Found>> {
    let hidden = |dir: &PathBuf| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with('.'))
    };
    let dirs = listed(dir)?
        .into_iter()
        .filter(|dir| !hidden(dir) && dir.is_dir());
    dirs.filter_map(|dir| adapter(&dir).transpose()).collect()
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(dir, e);
    let entries = std::fs::read_dir(dir).map_err(io)?;
    let paths = entries.map(|entry| Ok(entry.map_err(io)?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The hub's name of the repository whose folder in its cache this is.
fn cached(dir: &Path) -> Option<&str> {
    let name = dir.file_name()?.to_str()?.strip_prefix("models--")?;
    name.rsplit("--").next()
}

/// True if `dir` holds some file of an adapter, perhaps not all.
fn is(dir: &Path) -> bool {
    let files = [CONFIG, WEIGHTS, OLD_WEIGHTS];
    files.iter().any(|file| dir.join(file).is_file())
}

/// The adapter that `dir` is, or is the cached repository of.
fn adapter(dir: &Path) -> Result<Option<Found>> {
    let snapshots = dir.join("snapshots");
    if is(dir) || cached(dir).is_none() || !snapshots.is_dir() {
        return is(dir).then(|| named(dir)).transpose();
    }
    let main = std::fs::read_to_string(dir.join("refs/main")).ok();
    let snapshot = match (main, &listed(&snapshots)?[..]) {
        // A name has no slash, so this stays among the snapshots.
        (Some(main), _) => Name::new(main.trim()).map(|name| snapshots.join(name.as_str())),
        (None, [one]) => Ok(one.clone()),
        (None, _) => Err(Error::invalid(
            "it has no `main`; import one of its snapshots",
        )),
    };
    match snapshot {
        Ok(snapshot) => is(&snapshot).then(|| named(&snapshot)).transpose(),
        Err(error) => Ok(Some(Found {
            dir: dir.to_owned(),
            name: Err(error),
            nameable: false,
        })),
    }
}

/// An adapter is called as its folder is, a snapshot as its repository.
fn named(dir: &Path) -> Result<Found> {
    let real = dir.canonicalize().map_err(|e| Error::io(dir, e))?;
    let snapshots = real.parent().filter(|p| p.ends_with("snapshots"));
    let repository = snapshots.and_then(|p| cached(p.parent()?));
    let own = real.file_name().map(|name| name.to_string_lossy());
    let name = match repository {
        Some(repository) => Name::new(repository),
        None => Name::new(&own.unwrap_or_default()),
    };
    Ok(Found {
        dir: real.clone(),
        name,
        nameable: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn folders_and_the_hubs_cache_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        let path = |path: &str| dir.path().join(path);
        let names = |at: &str| -> Vec<String> {
            let found = find(&path(at)).unwrap().into_iter();
            found.map(|found| found.name.unwrap().to_string()).collect()
        };
        file(path("mine").join(CONFIG), "{}");
        let repository = path("models--me--my-lora");
        file(repository.join("snapshots/abc").join(CONFIG), "{}");
        file(path("models--you--base/snapshots/1/config.json"), "{}");
        file(path("other/file"), "");
        assert_eq!(names(""), ["mine", "my-lora"]);
        assert_eq!(names("mine"), ["mine"]);
        assert_eq!(names("models--me--my-lora"), ["my-lora"]);
        assert_eq!(names("models--me--my-lora/snapshots/abc"), ["my-lora"]);
        assert!(names("other").is_empty());
        // Two snapshots: `main` says which.
        file(repository.join("snapshots/def").join(CONFIG), "{}");
        let error = |found: Vec<Found>| found.into_iter().find_map(|found| found.name.err());
        let said = error(find(&repository).unwrap()).unwrap();
        assert!(said.to_string().contains("no `main`"), "{said}");
        file(repository.join("refs/main"), "def\n");
        assert!(find(&repository).unwrap()[0].dir.ends_with("snapshots/def"));
        file(repository.join("refs/main"), "../../mine");
        assert!(error(find(&repository).unwrap()).is_some());
    }

    #[test]
    fn bad_names_and_half_adapters_are_found_and_hidden_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |path: &str| dir.path().join(path);
        file(path("good").join(CONFIG), "{}");
        file(path("my adapter").join(CONFIG), "{}");
        file(path("no-config").join(WEIGHTS), "");
        file(path(".ipynb_checkpoints").join(CONFIG), "{}");
        let found = find(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|found| found.name.is_ok()).collect();
        assert_eq!(names, [true, false, true]);
        assert!(found[1].nameable && found[1].dir.ends_with("my adapter"));
        let error = found[1].name.as_ref().unwrap_err().to_string();
        assert!(error.contains("`my adapter` is not a name"), "{error}");
    }
}
