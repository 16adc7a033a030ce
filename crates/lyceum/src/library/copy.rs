//! Copying between libraries, whatever their stores.

use std::collections::BTreeMap;

use super::Library;
use super::entry::{Derived, Entry};
use super::plan::Edit;
use crate::error::{Context, Error, Result};
use crate::name::Name;
use crate::store::{Put, each};

/// Experts per version of a copy: an interrupted one goes on from the last of them.
const EXPERTS_PER_COMMIT: usize = 64;

/// An expert to be copied: its name, its entry, and what the destination has under the name.
type Lacking = (Name, Entry, Option<Entry>);

/// Statistics of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Experts that came new to the destination, or changed there.
    pub experts: usize,
    /// Artifacts that did.
    pub artifacts: usize,
    /// Experts that were the same there already.
    pub already: usize,
}

impl Library {
    /// Copies all experts and artifacts to `to`; what is the same there already is left alone.
    /// Returns how many experts were copied.
    ///
    /// # Errors
    /// [`Error::Exists`] when `to` holds another expert under one of the names; then nothing was
    /// copied.
    pub fn copy_to(&self, to: &Library) -> Result<usize> {
        Ok(self.copy(to, None, Put::New, |_, _| {})?.experts)
    }

    /// Copies the experts `only` (all when absent) with their artifacts to `to`. Every file is
    /// verified by its hash on the way. `done` hears how many of how many experts are there.
    /// Interrupted, it can be repeated and goes on where it was.
    ///
    /// # Errors
    /// [`Error::Exists`] under [`Put::New`] when `to` holds another expert under one of the
    /// names; then nothing was copied.
    pub fn copy(
        &self,
        to: &Library,
        only: Option<&[Name]>,
        how: Put,
        mut done: impl FnMut(usize, usize),
    ) -> Result<Copied> {
        let entries = self.entries_of(only)?;
        let all = entries.len();
        let missing = to.lacking(entries, how)?;
        let mut copied = Copied {
            experts: 0,
            artifacts: 0,
            already: all - missing.len(),
        };
        done(copied.already, all);
        for chunk in missing.chunks(EXPERTS_PER_COMMIT) {
            self.copy_together(to, chunk, how, &mut copied)?;
            done(copied.already + copied.experts, all);
        }
        Ok(copied)
    }

    /// The entries of the experts `only`, all when absent.
    fn entries_of(&self, only: Option<&[Name]>) -> Result<BTreeMap<Name, Entry>> {
        let mut entries = self.entries()?;
        if let Some(only) = only {
            for name in only {
                if !entries.contains_key(name) {
                    return Err(self.missing(name));
                }
            }
            entries.retain(|name, _| only.contains(name));
        }
        Ok(entries)
    }

    /// Those of `entries` that are not the same in this library already.
    fn lacking(&self, entries: BTreeMap<Name, Entry>, how: Put) -> Result<Vec<Lacking>> {
        let there = self.entries()?;
        let mut missing = Vec::new();
        for (name, entry) in entries {
            match there.get(&name) {
                Some(other) if !other.same(&entry) && how == Put::New => {
                    return Err(Error::Exists {
                        kind: "expert",
                        name: name.to_string(),
                    })
                    .context(|| format!("copying to {}", self.uri()));
                }
                Some(other) if other.same(&entry) && has_artifacts(other, &entry) => {}
                other => missing.push((name, entry, other.cloned())),
            }
        }
        Ok(missing)
    }

    /// Copies the experts of `chunk` to `to` as one version, and counts them in `copied`.
    fn copy_together(
        &self,
        to: &Library,
        chunk: &[Lacking],
        how: Put,
        copied: &mut Copied,
    ) -> Result<()> {
        let mut batch = to.batch()?;
        let epoch = batch.base().epoch();
        let width = to.shared.objects.store.width();
        let width = width.max(self.shared.objects.store.width());
        let staged = each(width, chunk, |(name, entry, other)| {
            self.transfer(to, (name, entry, other.as_ref()), epoch)
        })?;
        for ((name, entry, other), new) in chunk.iter().zip(staged) {
            match other.as_ref().is_some_and(|other| other.same(entry)) {
                true => copied.already += 1,
                false => copied.experts += 1,
            }
            copied.artifacts += new.artifacts.len();
            let artifacts = new.artifacts.clone();
            let files = Entry {
                artifacts: BTreeMap::new(),
                ..new
            };
            batch.push(name.clone(), Edit::Put(Box::new(files), how));
            for (kind, derived) in artifacts {
                batch.push(name.clone(), Edit::Derive(kind, derived));
            }
        }
        batch
            .commit()
            .context(|| format!("copying to {}", to.uri()))?;
        Ok(())
    }

    /// Brings the objects of `entry` to `to`, and returns what to commit there: its files, and
    /// the artifacts that are not there yet.
    fn transfer(
        &self,
        to: &Library,
        (name, entry, other): (&Name, &Entry, Option<&Entry>),
        epoch: u64,
    ) -> Result<Entry> {
        let bring = |blob: &super::Blob| {
            let bytes = self.shared.objects.get(blob)?;
            to.shared.objects.put(&bytes, epoch)
        };
        let mut new = entry.clone();
        new.artifacts.clear();
        match other.filter(|other| other.same(entry)) {
            Some(other) => new.files.clone_from(&other.files),
            None => {
                for blob in new.files.values_mut() {
                    *blob = bring(blob).context(|| format!("copying expert `{name}`"))?;
                }
            }
        }
        for (kind, derived) in &entry.artifacts {
            if other.is_some_and(|other| has_artifact(other, kind, derived)) {
                continue;
            }
            let file = bring(&derived.file)
                .context(|| format!("copying the {kind} artifact of expert `{name}`"))?;
            let made_from = derived.made_from.clone();
            new.artifacts
                .insert(kind.clone(), Derived { file, made_from });
        }
        Ok(new)
    }
}

fn has_artifact(entry: &Entry, kind: &Name, derived: &Derived) -> bool {
    let found = entry.artifacts.get(kind);
    found.is_some_and(|d| d.file.same(&derived.file) && d.made_from == derived.made_from)
}

fn has_artifacts(entry: &Entry, wanted: &Entry) -> bool {
    let mut wanted = wanted.artifacts.iter();
    wanted.all(|(kind, derived)| has_artifact(entry, kind, derived))
}
