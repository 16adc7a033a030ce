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
    /// Errors of the operating system.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is only read; see the type's note on files that shrink.
        Ok(Map(unsafe { memmap2::Mmap::map(&file)? }))
    }

    /// Gives the memory behind `range` back to the system; it is read again from the file when
    /// it is looked at again. A hint: where it cannot be given, nothing happens.
    pub fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.0.len() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a file's and is only read: pages that are dropped come back with
            // the same bytes.
            let _ = unsafe {
                self.0
                    .unchecked_advise_range(advice, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl std::ops::Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
