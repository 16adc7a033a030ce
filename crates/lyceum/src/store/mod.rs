//! Where a library's bytes live: a few verbs that every place offers.

mod local;
mod memory;

use std::sync::Arc;

pub use local::Local;
pub use memory::Memory;

use crate::error::{Error, Result};

/// Whether a key may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It must not.
    New,
    /// It may, and is replaced.
    Replace,
}

/// Keys to bytes. A put is atomic: readers see the old bytes or the new, a killed put leaves the
/// old.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The address it was opened with.
    fn uri(&self) -> String;
    /// The bytes at `key`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such key.
    fn get(&self, key: &str) -> Result<Vec<u8>>;
    /// Puts `bytes` at `key`.
    ///
    /// # Errors
    /// [`Error::Exists`] for [`Put::New`] on an existing key.
    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()>;
    /// Removes `key`; it need not exist.
    ///
    /// # Errors
    /// When the place refuses.
    fn delete(&self, key: &str) -> Result<()>;
    /// All keys that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;
}

/// Refuses keys that could leave the store.
///
/// # Errors
/// [`Error::Invalid`] naming the key.
pub fn check_key(key: &str) -> Result<()> {
    let part =
        |p: &str| p.is_empty() || p == ".." || p.starts_with('.') || p.contains(['\\', '\0']);
    if key.split('/').any(part) {
        return Err(Error::invalid(format!("`{key}` is not a store key")));
    }
    Ok(())
}

/// Opens the store at `uri`: a path, `local://DIR` or `memory://NAME`.
///
/// # Errors
/// When the scheme is not supported, or the folder cannot be made.
pub fn open(uri: &str) -> Result<Arc<dyn Store>> {
    match uri.split_once("://") {
        None => Ok(Arc::new(Local::new(uri))),
        Some(("local", path)) => Ok(Arc::new(Local::new(path))),
        Some(("memory", name)) => Ok(Memory::named(name)),
        Some((scheme, _)) => Err(Error::invalid(format!(
            "`{scheme}://` is not supported; use a path, local://DIR or memory://NAME"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laws(store: &dyn Store) {
        assert!(matches!(store.get("a/b"), Err(Error::NotFound { .. })));
        store.put("a/b", b"1", Put::New).unwrap();
        store.put("a/é", b"2", Put::New).unwrap();
        store.put("c", b"", Put::Replace).unwrap();
        assert_eq!(store.get("a/b").unwrap(), b"1");
        assert!(matches!(
            store.put("a/b", b"3", Put::New),
            Err(Error::Exists { .. })
        ));
        assert_eq!(store.get("a/b").unwrap(), b"1");
        store.put("a/b", b"3", Put::Replace).unwrap();
        assert_eq!(store.get("a/b").unwrap(), b"3");
        assert_eq!(store.list("").unwrap(), ["a/b", "a/é", "c"]);
        assert_eq!(store.list("a/").unwrap(), ["a/b", "a/é"]);
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.list("").unwrap(), ["a/é", "c"]);
        for bad in ["", "/a", "../a", "a/../b", "a//b", ".hidden", "a\\b"] {
            assert!(store.put(bad, b"x", Put::New).is_err(), "{bad}");
            assert!(store.get(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_store_obeys_the_laws() {
        let dir = tempfile::tempdir().unwrap();
        laws(&Local::new(dir.path().to_str().unwrap()));
        laws(&*Memory::named("laws"));
    }

    #[test]
    fn a_place_that_cannot_be_written_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = Local::new(file.path().join("below").to_str().unwrap());
        assert!(matches!(
            store.put("a", b"1", Put::New),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn what_a_killed_write_leaves_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".tmp-half"), b"ha").unwrap();
        let store = Local::new(dir.path().to_str().unwrap());
        assert!(store.list("").unwrap().is_empty());
    }
}
