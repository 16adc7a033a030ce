//! Where adapters lie: folders of one's own, and the cache of the Hugging Face hub.

use std::path::{Path, PathBuf};

use super::CONFIG;
use crate::error::{Error, Result};
use crate::name::Name;

/// The adapters at `source` and what they are called: the folder itself; a repository in the hub's
/// cache (`models--ORG--NAME`), as of its `main`; or all of these that `source` holds, in the order
/// of their folders. Empty when there is none.
///
/// # Errors
/// When a folder cannot be listed, its name is no name for an expert, or a cached repository has
/// no `main` and several snapshots.
pub fn find(source: &Path) -> Result<Vec<(Name, PathBuf)>> {
    if let Some(dir) = adapter(source)? {
        return Ok(vec![named(dir)?]);
    }
    let mut dirs = Vec::new();
    for dir in listed(source)? {
        dirs.extend(adapter(&dir)?);
    }
    dirs.into_iter().map(named).collect()
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(dir, e);
    let entries = std::fs::read_dir(dir).map_err(io)?;
    let paths = entries.map(|entry| Ok(entry.map_err(io)?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// What the hub's cache calls the repository whose folder this is.
fn cached(dir: &Path) -> Option<&str> {
    let name = dir.file_name()?.to_str()?.strip_prefix("models--")?;
    name.rsplit("--").next()
}

/// The folder of the adapter that `dir` is, or is the cached repository of.
fn adapter(dir: &Path) -> Result<Option<PathBuf>> {
    let is = |dir: &Path| dir.join(CONFIG).is_file();
    let snapshots = dir.join("snapshots");
    if is(dir) || cached(dir).is_none() || !snapshots.is_dir() {
        return Ok(is(dir).then(|| dir.to_owned()));
    }
    let main = std::fs::read_to_string(dir.join("refs/main")).ok();
    let snapshot = match (main, &listed(&snapshots)?[..]) {
        // A name has no slash, so this stays among the snapshots.
        (Some(main), _) => snapshots.join(Name::new(main.trim())?.as_str()),
        (None, [one]) => one.clone(),
        (None, _) => {
            let text = "has no `main`; import one of its snapshots";
            return Err(Error::invalid(format!("{} {text}", dir.display())));
        }
    };
    Ok(is(&snapshot).then_some(snapshot))
}

/// An adapter is called as its folder is, a snapshot as its repository.
fn named(dir: PathBuf) -> Result<(Name, PathBuf)> {
    let real = dir.canonicalize().map_err(|e| Error::io(&dir, e))?;
    let snapshots = real.parent().filter(|p| p.ends_with("snapshots"));
    let repository = snapshots.and_then(|p| cached(p.parent()?));
    let own = real.file_name().and_then(|name| name.to_str());
    let name = Name::new(repository.or(own).unwrap_or_default())?;
    Ok((name, dir))
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
            let found = find(&path(at)).unwrap();
            found.iter().map(|(name, _)| name.to_string()).collect()
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
        assert!(find(&repository).unwrap_err().to_string().contains("main"));
        file(repository.join("refs/main"), "def\n");
        assert!(find(&repository).unwrap()[0].1.ends_with("snapshots/def"));
        file(repository.join("refs/main"), "../../mine");
        assert!(find(&repository).is_err());
    }
}
