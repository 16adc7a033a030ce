//! A folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{AdvisoryLock, Put, Store, check_key};
use crate::error::{Error, Result};

const TEMPORARY: &str = ".tmp-";
/// Time for which a writer waits for the advisory lock before it goes on without.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// A temporary file younger than this may still be being written.
const SETTLED: Duration = Duration::from_secs(60);

/// Keys are files below a folder.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    /// Folders with new names in them that are not yet safe from a power cut.
    fresh: Mutex<BTreeSet<PathBuf>>,
}

impl Local {
    /// The folder `root`; made by the first put.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Local {
            root: root.into(),
            fresh: Mutex::default(),
        }
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    /// Makes `dir`, remembering which folders got new names.
    fn make(&self, dir: &Path) -> Result<()> {
        let missing: Vec<PathBuf> = { dir.ancestors() }
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir())
            .map(Path::to_owned)
            .collect();
        std::fs::create_dir_all(dir).map_err(|e| refused(dir, e))?;
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        // The parent of a plain relative name is the working directory.
        let parent = |dir: &PathBuf| match dir.parent()? {
            none if none.as_os_str().is_empty() => Some(PathBuf::from(".")),
            some => Some(some.to_owned()),
        };
        fresh.extend(missing.iter().filter_map(parent));
        fresh.insert(dir.to_owned());
        Ok(())
    }

    /// A file to be filled in `dir`, which is made. Who only tries a place takes folders that are
    /// empty away again, perhaps between the two.
    fn draft(&self, dir: &Path) -> Result<tempfile::NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        // What must never change is not writable, so that no editor changes it by accident.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444));
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let mut tries = 0;
        loop {
            tries += 1;
            let made = match self.make(dir) {
                Ok(()) => builder
                    .tempfile_in(dir)
                    .map_err(|e| (gone(&e), refused(dir, e))),
                Err(Error::Io { path, source }) => Err((gone(&source), Error::Io { path, source })),
                Err(error) => Err((false, error)),
            };
            match made {
                Ok(file) => return Ok(file),
                Err((true, _)) if tries < TRIES => {}
                Err((_, error)) => return Err(error),
            }
        }
    }
}

/// Attempts at making a folder that others take away again.
const TRIES: usize = 20;

/// As [`Error::io`], but a missing folder is no missing file.
fn refused(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
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

    fn exists(&self, key: &str) -> Result<bool> {
        let path = self.path(key)?;
        match path.symlink_metadata() {
            Ok(meta) => Ok(meta.is_file()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(refused(&path, e)),
        }
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        let path = self.path(key)?;
        let exists = || Error::Exists {
            kind: "key",
            name: key.to_owned(),
        };
        if how == Put::New && self.exists(key)? {
            return Err(exists());
        }
        let dir = path.parent().unwrap_or(&self.root);
        if how == Put::Replace {
            self.make(dir)?;
            return crate::file::write(&path, bytes);
        }
        let io = |e| refused(&path, e);
        let mut file = self.draft(dir)?;
        file.write_all(bytes)
            .and_then(|()| file.as_file().sync_all())
            .map_err(io)?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
            Err(e) => Err(io(e.error)),
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(refused(&path, e)),
            _ => Ok(()),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        // Only the folder the prefix ends in can hold such keys.
        let (at, _) = prefix
            .rsplit_once('/')
            .map_or(("", ""), |(at, rest)| (at, rest));
        let (dir, at) = match at {
            "" => (self.root.clone(), String::new()),
            at => (self.path(at)?, format!("{at}/")),
        };
        let mut keys = Vec::new();
        walk(&dir, &at, &mut |name, at| {
            // Names that are not UTF-8 or are hidden were not written by a store.
            if let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) {
                keys.push(format!("{at}{name}"));
            }
        })?;
        keys.retain(|key| key.starts_with(prefix));
        keys.sort();
        Ok(keys)
    }

    fn flush(&self) -> Result<()> {
        let fresh = std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner));
        #[cfg(unix)]
        for dir in &fresh {
            // The folder of a relative path's first part.
            let here = dir.as_os_str().is_empty();
            let dir = if here { Path::new(".") } else { dir };
            match File::open(dir).and_then(|dir| dir.sync_all()) {
                // A folder that is gone holds nothing to keep.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(refused(dir, e));
                }
                _ => {}
            }
        }
        let _ = fresh;
        Ok(())
    }

    fn sweep(&self, age: Duration) -> Result<()> {
        let now = SystemTime::now();
        let mut old = Vec::new();
        walk(&self.root, "", &mut |name, at| {
            if name.to_string_lossy().starts_with(TEMPORARY) {
                let path = self.root.join(at).join(name);
                let modified = path.symlink_metadata().and_then(|meta| meta.modified());
                let since = modified.ok().and_then(|when| now.duration_since(when).ok());
                if since.is_some_and(|since| since >= age.max(SETTLED)) {
                    old.push(path);
                }
            }
        })?;
        for path in old {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(refused(&path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn advisory_lock(&self) -> Result<AdvisoryLock> {
        let path = self.root.join(".turn");
        // Some file systems have no locks.
        let Ok(file) = File::create(&path) else {
            return Ok(AdvisoryLock::default());
        };
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(AdvisoryLock { _held: Some(file) }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return Ok(AdvisoryLock::default()),
            }
        }
    }

    fn width(&self) -> usize {
        4
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.root)
    }
}

/// Tells `file` every file below `dir`: its name, and the folders down to it with a slash after
/// each. Hidden folders are not entered, links not followed.
fn walk(dir: &Path, at: &str, file: &mut dyn FnMut(&OsStr, &str)) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(refused(dir, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| refused(dir, e))?;
        let (name, kind) = (entry.file_name(), entry.file_type());
        let kind = kind.map_err(|e| refused(dir, e))?;
        if kind.is_file() {
            file(&name, at);
        } else if kind.is_dir()
            && let Some(name) = name.to_str().filter(|name| !name.starts_with('.'))
        {
            walk(&entry.path(), &format!("{at}{name}/"), file)?;
        }
    }
    Ok(())
}
