//! A folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Put, Store, check_key};
use crate::error::{Error, Result};

/// Keys are files below a folder.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// The folder `root`; made by the first put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Local { root: root.into() }
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }
}

impl Store for Local {
    fn uri(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.path(key)?;
        std::fs::read(&path).map_err(|e| Error::io(path, e))
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        let path = self.path(key)?;
        if how == Put::Replace {
            return crate::file::write(&path, bytes);
        }
        let io = |e| Error::Io {
            path: path.clone(),
            source: e,
        };
        let dir = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut file = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempfile_in(dir)
            .map_err(io)?;
        file.write_all(bytes)
            .and_then(|()| file.as_file().sync_all())
            .map_err(io)?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists {
                kind: "key",
                name: key.to_owned(),
            }),
            Err(e) => Err(io(e.error)),
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
            _ => Ok(()),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        if self.root.is_dir() {
            walk(&self.root, "", &mut keys)?;
        }
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }
}

fn walk(dir: &Path, at: &str, keys: &mut Vec<String>) -> Result<()> {
    let io = |e| Error::io(dir, e);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        // Names that are not UTF-8 or are hidden were not written by a store.
        let Some(name) = name.to_str().filter(|n| !n.starts_with('.')) else {
            continue;
        };
        let kind = entry.file_type().map_err(io)?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{at}{name}/"), keys)?;
        } else if kind.is_file() {
            keys.push(format!("{at}{name}"));
        }
    }
    Ok(())
}
