//! An MTTL folder opened as a library, for reading only.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::library::Library;
use crate::store::{Memory, Put, Store};

/// The library's keys, in this process's memory under the folder's own address.
#[derive(Debug)]
struct View {
    uri: String,
    keys: Memory,
    sealed: std::sync::OnceLock<()>,
}

impl View {
    fn writable(&self) -> Result<()> {
        match self.sealed.get() {
            None => Ok(()),
            Some(()) => Err(Error::invalid(format!(
                "{} is a library of MTTL's and open for reading only; make it Lyceum's own first: \
                 lyceum import {} DESTINATION",
                self.uri, self.uri
            ))),
        }
    }
}

impl Store for View {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.keys.get(key)
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        self.writable()?;
        self.keys.put(key, bytes, how)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.writable()?;
        self.keys.delete(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.keys.list(prefix)
    }
}

/// The library in the MTTL folder at `uri`; `None` when there is no such folder. What MTTL marks
/// as deleted is not in it.
///
/// # Errors
/// When the folder is one of MTTL's but cannot be read whole.
pub(crate) fn open(uri: &str) -> Result<Option<Library>> {
    let path = uri.strip_prefix("local://").unwrap_or(uri);
    if path.contains("://") || !super::is_library(Path::new(path)) {
        return Ok(None);
    }
    let contents = super::read(Path::new(path))?;
    let view = Arc::new(View {
        uri: uri.to_owned(),
        keys: Memory::default(),
        sealed: std::sync::OnceLock::new(),
    });
    let library = Library::within(view.clone())?;
    contents.add_to(&library)?;
    view.sealed.get_or_init(|| ());
    Ok(Some(library))
}
