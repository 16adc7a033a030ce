//! A library of experts, over any store.
//!
//! Immutable content-addressed objects, an index of small shards, and numbered manifests of which
//! one conditional create decides the next: see `docs/library.md`. A handle looks at one version,
//! whole and unchanging; its own commits move it forward, [`Library::refresh`] follows others.

mod artifacts;
mod blob;
mod check;
mod commit;
mod copy;
mod entry;
mod folders;
mod foreign;
mod index;
mod making;
mod manifest;
mod members;
mod plan;
mod purge;
mod restore;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

pub use blob::Blob;
pub(crate) use check::Verified;
pub use check::{Checked, Problem};
pub(crate) use commit::Since;
pub use commit::WriteBatch;
pub use copy::Copied;
pub use entry::{Derived, Entry};
pub use foreign::{Taking, contents, take_in};
pub use manifest::{Change, Manifest, Operation};
pub use members::Members;
pub use purge::Purged;

use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::name::Name;
use crate::peft;
use crate::store::{Put, each};
use blob::Objects;
use plan::Edit;
use snapshot::Snapshot;

/// Named experts and what was derived from them. Clones share what they look at.
///
/// ```
/// use lyceum::prelude::*;
///
/// let library = Library::create("memory://mine")?;
/// assert!(library.names()?.is_empty());
/// let merged_too = library.members(&Members::All)?;
/// assert_eq!(merged_too.version(), library.version());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Library {
    shared: Arc<Shared>,
    /// The experts that count, where not all do.
    selection: Option<Arc<members::Selection>>,
}

#[derive(Debug)]
struct Shared {
    objects: Objects,
    access: Access,
    /// Set once the place was tried.
    probed: OnceLock<()>,
    /// Set once the marker is there.
    made: OnceLock<()>,
    current: Mutex<Arc<Snapshot>>,
}

/// Permissions of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Read and write.
    Write,
    /// Read: an older version, or a place that is only read.
    Read,
    /// Read: experts of another tool's, held in memory.
    Foreign,
}

impl Library {
    fn looking(objects: Objects, access: Access, at: Snapshot) -> Self {
        Library {
            shared: Arc::new(Shared {
                objects,
                access,
                probed: OnceLock::new(),
                made: OnceLock::new(),
                current: Mutex::new(Arc::new(at)),
            }),
            selection: None,
        }
    }

    /// The same library at an older version, for reading only.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there was no such version, or when it was purged.
    pub fn at(&self, version: u64) -> Result<Self> {
        let objects = self.shared.objects.clone();
        let snapshot = Snapshot::at(&objects, version)?;
        Ok(Library::looking(objects, Access::Read, snapshot))
    }

    /// Looks at the latest version from now on, and returns its number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn refresh(&self) -> Result<u64> {
        let latest = Snapshot::latest(&self.shared.objects, Some(&self.snapshot()))?;
        let version = latest.version();
        self.pin(Arc::new(latest));
        Ok(version)
    }

    /// The number of the version looked at; 0 before the first commit.
    pub fn version(&self) -> u64 {
        self.snapshot().version()
    }

    /// The last `most` versions up to the one looked at, newest first.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn history(&self, most: usize) -> Result<Vec<Manifest>> {
        let store = &*self.shared.objects.store;
        let last = self.version();
        let versions: Vec<u64> = (1..=last).rev().take(most).collect();
        let read = |version: &u64| {
            let missing = || Error::not_found("version", &version.to_string(), []);
            manifest::read(store, *version)?.ok_or_else(missing)
        };
        each(store.width(), &versions, read)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        let current = self.shared.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pin(&self, snapshot: Arc<Snapshot>) {
        let mut current = { self.shared.current.lock() }.unwrap_or_else(PoisonError::into_inner);
        // Another thread's commit may already have gone further.
        if snapshot.version() >= current.version() {
            *current = snapshot;
        }
    }

    /// The library's address.
    pub fn uri(&self) -> String {
        self.shared.objects.store.uri()
    }

    /// The library's address, independent of the current folder.
    pub(crate) fn place(&self) -> String {
        let store = &self.shared.objects.store;
        let absolute = store.folder().and_then(|dir| std::path::absolute(dir).ok());
        let real = absolute.map(|dir| {
            // What is not there yet has no links in it.
            let there = dir.ancestors().find_map(|above| {
                let rest = dir.strip_prefix(above).ok()?;
                Some(above.canonicalize().ok()?.join(rest))
            });
            there.unwrap_or(dir)
        });
        // Joining nothing leaves a slash behind.
        let real = real.map(|dir| dir.components().collect::<std::path::PathBuf>());
        real.map_or_else(|| store.uri(), |dir| dir.display().to_string())
    }

    /// The listed experts, in the order of their names; of a selection
    /// ([`Library::members`]) only those that count.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn entries(&self) -> Result<BTreeMap<Name, Entry>> {
        let (snapshot, objects) = (self.snapshot(), &self.shared.objects);
        let mut all = match &self.selection {
            Some(selection) => snapshot.index.some(objects, &selection.names)?,
            None => snapshot.all(objects)?,
        };
        all.retain(|_, entry| entry.live());
        Ok(all)
    }

    /// The removed experts that can be restored.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn removed(&self) -> Result<BTreeMap<Name, Entry>> {
        let mut all = self.snapshot().all(&self.shared.objects)?;
        all.retain(|_, entry| !entry.live());
        Ok(all)
    }

    /// The entry of `name`, found without reading the others.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn entry(&self, name: &Name) -> Result<Entry> {
        let found = self.snapshot().index.get(&self.shared.objects, name)?;
        match found.filter(|entry| entry.live() && self.counts(name)) {
            Some(entry) => Ok(entry),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &Name) -> Error {
        let names = self.names().unwrap_or_default();
        Error::not_found("expert", name.as_str(), names.iter().map(Name::as_str))
    }

    /// The experts' names, sorted.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn names(&self) -> Result<Vec<Name>> {
        Ok(self.entries()?.into_keys().collect())
    }

    /// The card of `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn card(&self, name: &Name) -> Result<Card> {
        self.card_of(name, &self.entry(name)?)
    }

    pub(crate) fn card_of(&self, name: &Name, entry: &Entry) -> Result<Card> {
        self.parse_card(name, &self.card_bytes(name, entry)?)
    }

    fn parse_card(&self, name: &Name, bytes: &[u8]) -> Result<Card> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::format(format!("experts/{name}/{}", peft::CARD), e))
    }

    /// All cards, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn cards(&self) -> Result<Vec<Card>> {
        self.cards_of(&self.entries()?)
    }

    /// The cards of `entries`, in their order.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn cards_of(&self, entries: &BTreeMap<Name, Entry>) -> Result<Vec<Card>> {
        let entries: Vec<(&Name, &Entry)> = entries.iter().collect();
        let width = self.shared.objects.store.width();
        each(width, &entries, |(name, entry)| self.card_of(name, entry))
    }

    /// The expert `name`, its weights checked against its card.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names, [`Error::Format`] for damaged files.
    pub fn expert(&self, name: &Name) -> Result<Expert> {
        self.expert_of(name, &self.entry(name)?)
    }

    fn expert_of(&self, name: &Name, entry: &Entry) -> Result<Expert> {
        peft::decode(&format!("experts/{name}"), |file| match file {
            peft::CARD => self.card_bytes(name, entry),
            _ => self.shared.objects.get(entry.file(name, file)?),
        })
        .context(|| format!("reading expert `{name}` of {}", self.uri()))
    }

    /// All experts, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read: never a silently shorter library.
    pub fn experts(&self) -> Result<Vec<Expert>> {
        let entries: Vec<(Name, Entry)> = self.entries()?.into_iter().collect();
        let width = self.shared.objects.store.width();
        each(width, &entries, |(name, entry)| self.expert_of(name, entry))
    }

    /// Adds an expert. Adding the very same again changes nothing. One that is replaced stays in
    /// the older versions until they are purged.
    ///
    /// # Errors
    /// [`Error::Exists`] for another expert of this name under [`Put::New`];
    /// [`Error::Conflict`] when another writer changed this name after the version looked at.
    pub fn add(&self, expert: &Expert, how: Put) -> Result<()> {
        let mut batch = self.batch()?;
        batch.add(expert, how)?;
        batch.commit().map(|_| ())
    }

    /// Removes an expert; it can be restored until it is purged.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names; [`Error::Conflict`] as in [`Library::add`].
    pub fn remove(&self, name: &Name) -> Result<()> {
        self.entry(name)?;
        let mut batch = self.batch()?;
        batch.remove(name);
        batch.commit().map(|_| ())
    }

    /// Renames an expert, its artifacts with it.
    ///
    /// # Errors
    /// When `from` is missing or `to` exists.
    pub fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        if from == to {
            return self.entry(from).map(|_| ());
        }
        let batch = self.batch()?;
        let (objects, epoch) = (&self.shared.objects, batch.base().epoch());
        let old = self.entry(from)?;
        let mut expert = self.expert_of(from, &old)?;
        expert.card.name = to.clone();
        let mut entry = self.stage(&expert, batch.base())?;
        entry.added = old.added;
        for (kind, derived) in &old.artifacts {
            let mut artifact = self.read_artifact(derived)?;
            artifact.expert = to.clone();
            let file = objects.put(&artifact.encode()?, epoch)?;
            let derived = Derived {
                file,
                made_from: artifact.made_from,
            };
            entry.artifacts.insert(kind.clone(), derived);
        }
        let mut batch = batch;
        batch.push(from.clone(), Edit::Rename(to.clone(), Box::new(entry)));
        batch.commit().map(|_| ())
    }

    /// Hex SHA-256 over names and weights.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, entry) in self.entries()? {
            hash.update(format!("{name} {};", entry.fingerprint));
        }
        Ok(crate::digest::hex(hash.finalize()))
    }
}
