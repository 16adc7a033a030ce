//! Files as memory.

use std::fs::File;
use std::path::Path;

/// A file mapped for reading.
///
/// The file must not be shortened while it is mapped: reading beyond its new end would stop the
/// process. Whoever writes weights replaces whole files by renaming, which is safe.
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read; see the type's note on files that shrink.
        Ok(Map(unsafe { memmap2::Mmap::map(&file)? }))
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
