//! A library of experts, over any store.
//!
//! Immutable content-addressed objects, an index of small shards, and numbered manifests of which
//! one conditional create decides the next: see `docs/library.md`. A handle looks at one version,
//! whole and unchanging; its own commits move it forward, [`Library::refresh`] follows others.

mod blob;
mod check;
mod commit;
mod copy;
mod entry;
mod folders;
mod foreign;
mod index;
mod manifest;
mod plan;
mod purge;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use blob::Blob;
pub use check::{Checked, Problem};
pub use commit::Batch;
pub use copy::Copied;
pub use entry::{Derived, Entry};
pub use foreign::{Taking, contents, take_in};
pub(crate) use manifest::mark;
pub use manifest::{Change, Did, Manifest};
pub use purge::Purged;

use crate::artifact::Artifact;
use crate::error::{Context, Error, Refusal, Result};
use crate::expert::{Card, Expert};
use crate::name::Name;
use crate::peft;
use crate::store::{self, Put, Store, each};
use blob::Objects;
use plan::Edit;
use snapshot::Snapshot;

const MARKER: &str = "library.json";
const FORMAT: u64 = 2;

fn none_at(uri: &str) -> Error {
    Error::invalid(format!(
        "there is no library at {uri}; make one with `lyceum train --library {uri}`"
    ))
}

/// Named experts and what was derived from them. Clones share what they look at.
#[derive(Debug, Clone)]
pub struct Library {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    objects: Objects,
    read_only: bool,
    probed: OnceLock<()>,
    current: Mutex<Arc<Snapshot>>,
}

impl Library {
    /// Opens the library at `uri` for writing, making it if there is none.
    ///
    /// # Errors
    /// When the place cannot be written safely.
    pub fn create(uri: &str) -> Result<Self> {
        let store = store::open(uri)?;
        match store.get(MARKER) {
            Ok(_) => {}
            Err(Error::NotFound { .. }) => {
                store::probe(&*store).context(|| format!("{uri} cannot be written"))?;
                let marker = format!("{{\"format\":{FORMAT}}}\n");
                match store.put(MARKER, marker.as_bytes(), Put::New) {
                    Ok(()) | Err(Error::Exists { .. }) => store.flush()?,
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        let library = Library::over(store, false)?;
        library.check_writable()?;
        Ok(library)
    }

    /// Opens the library at `uri`; its store is probed before the first change. What MTTL or PEFT
    /// keep there is opened for reading only.
    ///
    /// # Errors
    /// When there is none, or its format is not known.
    pub fn open(uri: &str) -> Result<Self> {
        let store = store::open(uri)?;
        let missing = match store.get(MARKER) {
            Ok(marker) => return Library::marked(store, false, &marker),
            Err(error) => error,
        };
        // Offline, what another tool keeps may be here although this was never a library.
        let offline = matches!(
            missing,
            Error::Remote {
                refusal: Refusal::Offline,
                ..
            }
        );
        if !offline && !matches!(missing, Error::NotFound { .. }) {
            return Err(missing);
        }
        match foreign::open(uri)? {
            Some(foreign) => Ok(foreign),
            None if offline => Err(missing),
            None => Err(none_at(uri)),
        }
    }

    /// A new library in an empty store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn within(store: Arc<dyn Store>) -> Result<Self> {
        let marker = format!("{{\"format\":{FORMAT}}}\n");
        store.put(MARKER, marker.as_bytes(), Put::New)?;
        Library::over(store, false)
    }

    /// The library in `store`.
    ///
    /// # Errors
    /// When there is none, or its format is not known.
    pub fn over(store: Arc<dyn Store>, read_only: bool) -> Result<Self> {
        match store.get(MARKER) {
            Ok(marker) => Library::marked(store, read_only, &marker),
            Err(Error::NotFound { .. }) => Err(none_at(&store.uri())),
            Err(error) => Err(error),
        }
    }

    /// The library in `store`, whose marker is `marker`.
    fn marked(store: Arc<dyn Store>, read_only: bool, marker: &[u8]) -> Result<Self> {
        let marker: Value = serde_json::from_slice(marker).map_err(|e| Error::format(MARKER, e))?;
        if marker.get("format").and_then(Value::as_u64) != Some(FORMAT) {
            return Err(Error::format(
                MARKER,
                "a library format this version does not know",
            ));
        }
        let objects = Objects { store };
        let current = Snapshot::latest(&objects, None)?;
        Ok(Library::looking(objects, read_only, current))
    }

    fn looking(objects: Objects, read_only: bool, at: Snapshot) -> Self {
        Library {
            shared: Arc::new(Shared {
                objects,
                read_only,
                probed: OnceLock::new(),
                current: Mutex::new(Arc::new(at)),
            }),
        }
    }

    /// The same library at an older version, for reading only.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there was no such version, or when it was purged.
    pub fn at(&self, version: u64) -> Result<Self> {
        let objects = self.shared.objects.clone();
        let snapshot = Snapshot::at(&objects, version)?;
        Ok(Library::looking(objects, true, snapshot))
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

    /// Where it is.
    pub fn uri(&self) -> String {
        self.shared.objects.store.uri()
    }

    /// The listed experts, in the order of their names.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn entries(&self) -> Result<BTreeMap<Name, Entry>> {
        let mut all = self.snapshot().all(&self.shared.objects)?;
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
        match found.filter(Entry::live) {
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

    /// What is known about `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn card(&self, name: &Name) -> Result<Card> {
        self.card_of(name, &self.entry(name)?)
    }

    fn card_of(&self, name: &Name, entry: &Entry) -> Result<Card> {
        let bytes = self.shared.objects.get(entry.card(name)?)?;
        serde_json::from_slice(&bytes)
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
        peft::decode(&format!("experts/{name}"), |file| {
            self.shared.objects.get(entry.file(name, file)?)
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

    /// The kinds of artifacts there are, sorted.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn kinds(&self) -> Result<Vec<Name>> {
        let entries = self.entries()?;
        let kinds = entries.values().flat_map(|entry| entry.artifacts.keys());
        let kinds: std::collections::BTreeSet<Name> = kinds.cloned().collect();
        Ok(kinds.into_iter().collect())
    }

    /// Persists an artifact, replacing an older one.
    ///
    /// # Errors
    /// When the store cannot be written; [`Error::NotFound`] when there is no such expert.
    pub fn put_artifact(&self, artifact: &Artifact) -> Result<()> {
        self.entry(&artifact.expert)?;
        let mut batch = self.batch()?;
        batch.put_artifact(artifact)?;
        batch.commit().map(|_| ())
    }

    fn read_artifact(&self, derived: &Derived) -> Result<Artifact> {
        let bytes = self.shared.objects.get(&derived.file)?;
        Artifact::decode(&bytes, &derived.file.key())
    }

    /// Whether `expert` has an artifact of `kind` made from its present weights.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such expert.
    pub fn is_derived(&self, kind: &Name, expert: &Name) -> Result<bool> {
        Ok(self.entry(expert)?.fresh(kind).is_some())
    }

    /// The artifact of `expert`; `None` when it was never derived or the expert has changed since.
    ///
    /// # Errors
    /// When it cannot be read, or there is no such expert.
    pub fn artifact_of(&self, kind: &Name, expert: &Name) -> Result<Option<Artifact>> {
        let entry = self.entry(expert)?;
        let found = entry.fresh(kind);
        found.map(|d| self.read_artifact(d)).transpose()
    }

    /// The artifacts of all experts.
    ///
    /// # Errors
    /// [`Error::Underived`] when one is missing, stale, or not made under `spec` if that is given.
    pub fn artifact(&self, kind: &Name, spec: Option<&Value>) -> Result<BTreeMap<Name, Artifact>> {
        let entries: Vec<(Name, Entry)> = self.entries()?.into_iter().collect();
        let width = self.shared.objects.store.width();
        let read = |(name, entry): &(Name, Entry)| {
            let underived = |why: &str| Error::Underived {
                what: format!("expert `{name}` {why} {kind} artifact"),
                command: format!("lyceum derive {} {kind}", self.uri()),
            };
            let Some(derived) = entry.fresh(kind) else {
                let why = match entry.artifacts.contains_key(kind) {
                    true => "has changed since its",
                    false => "has no",
                };
                return Err(underived(why));
            };
            let artifact = self.read_artifact(derived)?;
            match spec.is_none_or(|spec| artifact.spec == *spec) {
                true => Ok((name.clone(), artifact)),
                false => Err(underived("was given other settings for its")),
            }
        };
        Ok(each(width, &entries, read)?.into_iter().collect())
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
        Ok(blob::hex(&hash.finalize()))
    }
}
