//! An MTTL folder opened as a library, for reading only.

use std::path::Path;

use crate::error::Result;
use crate::library::Library;
use crate::store::Memory;

/// The library in the MTTL folder at `uri`, held in this process's memory; `None` when there is no
/// such folder. What MTTL marks as deleted is not in it.
///
/// # Errors
/// When the folder is one of MTTL's but cannot be read whole.
pub(crate) fn open(uri: &str) -> Result<Option<Library>> {
    let path = uri.strip_prefix("local://").unwrap_or(uri);
    if path.contains("://") || !super::is_library(Path::new(path)) {
        return Ok(None);
    }
    let store = Memory::private(uri);
    let library = Library::within(store.clone())?;
    super::read(Path::new(path))?.add_to(&library)?;
    Library::over(store, true).map(Some)
}
