//! Committing: write objects, then let one conditional create decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Library;
use super::blob::Blob;
use super::entry::{Derived, Entry};
use super::manifest::{self, Manifest, NAMED};
use super::plan::{Edit, Plan};
use super::snapshot::Snapshot;
use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::name::Name;
use crate::peft;
use crate::rng::unique_id;
use crate::store::{Backoff, Put};

/// Time for which a writer competes with others before it gives up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Changes that become one version, or none. Objects are written as they are added, so a batch
/// holds no weights in memory; until [`commit`](WriteBatch::commit) nobody sees any of it.
///
/// ```no_run
/// use lyceum::library::Library;
///
/// let library = Library::open("experts")?;
/// let mut batch = library.batch()?;
/// for name in library.names()? {
///     batch.remove(&name);
/// }
/// println!("version {} holds no expert", batch.commit()?);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before `commit`"]
pub struct WriteBatch<'a> {
    library: &'a Library,
    base: Arc<Snapshot>,
    edits: Vec<(Name, Edit)>,
}

impl<'a> WriteBatch<'a> {
    pub(crate) fn new(library: &'a Library) -> Result<Self> {
        library.check_writable()?;
        Ok(WriteBatch {
            library,
            base: library.snapshot(),
            edits: Vec::new(),
        })
    }

    /// The version it builds on.
    pub(crate) fn base(&self) -> &Snapshot {
        &self.base
    }

    /// The number of edits.
    pub fn len(&self) -> usize {
        self.edits.len()
    }

    /// Returns `true` if there are no edits.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    pub(crate) fn push(&mut self, name: Name, edit: Edit) {
        self.edits.push((name, edit));
    }

    /// Adds an expert, as [`Library::add`] does.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn add(&mut self, expert: &Expert, how: Put) -> Result<()> {
        let entry = self.library.stage(expert, &self.base)?;
        let name = expert.card.name.clone();
        self.push(name, Edit::Put(Box::new(entry), how));
        Ok(())
    }

    /// Keeps an artifact, as [`Library::put_artifact`] does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_artifact(&mut self, artifact: &Artifact) -> Result<()> {
        let objects = &self.library.shared.objects;
        let file = objects.put(&artifact.encode()?, self.base.epoch())?;
        let derived = Derived {
            file,
            made_from: artifact.made_from.clone(),
        };
        let edit = Edit::Derive(artifact.kind.clone(), derived);
        self.push(artifact.expert.clone(), edit);
        Ok(())
    }

    /// Removes an expert, as [`Library::remove`] does.
    pub fn remove(&mut self, name: &Name) {
        self.push(name.clone(), Edit::Remove);
    }

    /// Makes all of it one new version. When everything is so already there is no new version,
    /// and the current one is returned.
    ///
    /// # Errors
    /// [`Error::Exists`] and [`Error::NotFound`] as the single operations,
    /// [`Error::Conflict`] when another writer changed one of the same experts meanwhile; then
    /// nothing of the batch happened.
    pub fn commit(self) -> Result<u64> {
        self.library.commit(&self.base, &self.edits, false)
    }
}

/// A version a long work began from: what it commits later is judged by what was there then.
#[derive(Debug, Clone)]
pub(crate) struct Since(Arc<Snapshot>);

impl Library {
    /// Begins a batch of changes that become one version.
    ///
    /// # Errors
    /// When the library is read-only or its store cannot be written safely.
    pub fn batch(&self) -> Result<WriteBatch<'_>> {
        WriteBatch::new(self)
    }

    /// The version looked at now, to commit against later.
    pub(crate) fn now(&self) -> Since {
        Since(self.snapshot())
    }

    /// As [`Library::batch`], its changes judged by what was there at `since`: whatever another
    /// writer changed after that is a conflict, although this handle has moved on meanwhile.
    pub(crate) fn batch_since(&self, since: &Since) -> Result<WriteBatch<'_>> {
        self.check_writable()?;
        Ok(WriteBatch {
            library: self,
            base: since.0.clone(),
            edits: Vec::new(),
        })
    }

    /// Writes those of an expert's files that `base` does not have under its name.
    pub(crate) fn stage(&self, expert: &Expert, base: &Snapshot) -> Result<Entry> {
        let objects = &self.shared.objects;
        let there = base.index.get(objects, &expert.card.name)?;
        let mut files = BTreeMap::new();
        for (file, bytes) in peft::encode(expert)? {
            let held = there.as_ref().and_then(|entry| entry.files.get(file));
            let blob = match held.filter(|blob| blob.same(&Blob::of(&bytes, 0))) {
                Some(held) => held.clone(),
                None => objects.put(&bytes, base.epoch())?,
            };
            files.insert(file.to_owned(), blob);
        }
        Ok(Entry::new(&expert.card, files))
    }

    /// Commits `edits` made while looking at `base`; `purge` begins a new epoch.
    pub(crate) fn commit(
        &self,
        base: &Snapshot,
        edits: &[(Name, Edit)],
        purge: bool,
    ) -> Result<u64> {
        self.check_writable()?;
        self.make()?;
        let objects = &self.shared.objects;
        let store = &*objects.store;
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(640));
        let mut head = self.snapshot();
        loop {
            let _lock = store.advisory_lock()?;
            head = Arc::new(Snapshot::latest(objects, Some(&head))?);
            let time = manifest::now().max(head.time());
            let plan = Plan::new(edits, (base, &head), objects, time);
            let mut plan = plan.map_err(|e| purged(e, base, &head))?;
            let epoch = head.epoch() + u64::from(purge);
            if plan.entries.is_empty() && !purge {
                self.advance(&head)?;
                return Ok(head.version());
            }
            self.carry(&mut plan, (base, &head), epoch)?;
            let (index, root) = head.index.with(objects, &plan.entries, epoch)?;
            // What the manifest refers to must outlive a power cut once the manifest does.
            store.flush()?;
            let manifest = next(&head, &plan, (epoch, time), root);
            let also = match store.atomic() {
                true => super::folders::changes(objects, &plan.entries, &head)?,
                false => Vec::new(),
            };
            if manifest::create(store, &manifest, also)? {
                let version = manifest.version;
                let (changes, retries) = (manifest.changed, backoff.retries());
                tracing::info!(library = self.uri(), version, changes, retries, "committed");
                let manifest = Some(manifest);
                self.advance(&Arc::new(Snapshot { manifest, index }))?;
                return Ok(version);
            }
            if begun.elapsed() > COMMIT_TIMEOUT {
                break;
            }
            drop(_lock);
            std::thread::sleep(backoff.pause(None));
        }
        Err(Error::Conflict(format!(
            "other writers of {} were faster for {} seconds; try again",
            self.uri(),
            COMMIT_TIMEOUT.as_secs()
        )))
    }

    /// Moves this handle to `head`, and the PEFT folders of a local library with it.
    fn advance(&self, head: &Arc<Snapshot>) -> Result<()> {
        self.pin(head.clone());
        super::folders::follow(&self.shared.objects).context(|| {
            let version = head.version();
            format!(
                "version {version} is committed, but the folders under experts/ could not follow"
            )
        })
    }

    /// Objects written before a purge that happened meanwhile are written again, unless `head`
    /// refers to them: the purge may be deleting them.
    fn carry(
        &self,
        plan: &mut Plan,
        (base, head): (&Snapshot, &Snapshot),
        epoch: u64,
    ) -> Result<()> {
        let objects = &self.shared.objects;
        let staged = |blob: &Blob| blob.epoch() != epoch;
        let old = { plan.entries.values().flatten() }.any(|entry| entry.blobs().any(staged));
        if !old {
            return Ok(());
        }
        let mut kept = std::collections::BTreeSet::new();
        for name in plan.entries.keys() {
            if let Some(entry) = head.index.get(objects, name)? {
                kept.extend(entry.blobs().cloned());
            }
        }
        for entry in plan.entries.values_mut().flatten() {
            let artifacts = { entry.artifacts.values_mut() }.map(|derived| &mut derived.file);
            for blob in entry.files.values_mut().chain(artifacts) {
                if blob.epoch() == epoch || kept.contains(blob) {
                    continue;
                }
                let bytes = objects.get(blob).map_err(|e| purged(e, base, head))?;
                *blob = objects.put(&bytes, epoch)?;
            }
        }
        Ok(())
    }
}

/// An object that is missing after a purge is no damage.
fn purged(error: Error, base: &Snapshot, head: &Snapshot) -> Error {
    match error {
        Error::NotFound { kind: "file", .. } if base.epoch() != head.epoch() => {
            Error::Conflict("the library was purged while this was being written; repeat it".into())
        }
        other => other,
    }
}

fn next(head: &Snapshot, plan: &Plan, (epoch, time): (u64, u64), root: Blob) -> Manifest {
    Manifest {
        version: head.version() + 1,
        epoch,
        time,
        by: concat!("lyceum ", env!("CARGO_PKG_VERSION")).into(),
        writer: unique_id(),
        experts: head.experts().saturating_add_signed(plan.grown),
        changes: plan.changes.iter().take(NAMED).cloned().collect(),
        changed: plan.changes.len() as u64,
        root,
    }
}
