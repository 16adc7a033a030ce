//! Bringing back what was removed or replaced.

use super::Library;
use super::entry::Entry;
use super::plan::Edit;
use crate::error::{Context, Error, Result};
use crate::name::Name;
use crate::store::Put;

impl Library {
    /// Brings back a removed expert, its artifacts with it.
    ///
    /// # Errors
    /// When none of this name was removed, or another took its place.
    pub fn restore(&self, name: &Name) -> Result<()> {
        let snapshot = self.snapshot();
        if snapshot.index.get(&self.shared.objects, name)?.is_none() {
            let removed = self.removed()?;
            let names = removed.keys().map(Name::as_str);
            return Err(Error::not_found("removed expert", name.as_str(), names));
        }
        let edits = [(name.clone(), Edit::Restore)];
        self.commit(&snapshot, &edits, false).map(|_| ())
    }

    /// Makes the experts `names` what they were in `version`, their artifacts with them: all of
    /// them or none. Returns the library's version afterwards; it is the one before when all were
    /// so already.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there was no such version or it did not list one of them,
    /// [`Error::Exists`] under [`Put::New`] when another expert has one of the names now, and
    /// [`Error::Conflict`] as in [`Library::add`].
    pub fn restore_at(&self, names: &[Name], version: u64, how: Put) -> Result<u64> {
        let batch = self.batch()?;
        let then = self.at(version)?;
        let mut batch = batch;
        for name in names {
            let entry = then.entry(name);
            let entry = entry.context(|| format!("version {version} of {}", self.uri()))?;
            let entry = Box::new(Entry {
                removed: None,
                ..entry
            });
            batch.push(name.clone(), Edit::RestoreFrom(entry, how));
        }
        batch.commit()
    }
}
