//! Giving up what is no longer needed.
//!
//! A purge first commits a version that begins a new epoch, then deletes objects of older epochs
//! that neither it nor any version it keeps refers to. Later versions refer to old objects only
//! through it, so the deleting may take as long as it likes: no writer can come to need what is
//! being deleted. The grace time is for readers, who may still look at older versions.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Library;
use super::blob::{self, Blob};
use super::manifest;
use super::plan::Edit;
use super::snapshot::Snapshot;
use crate::error::Result;

/// Statistics of a purge, or of its dry run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Purged {
    /// Removed experts that can no longer be restored.
    pub experts: usize,
    /// Objects deleted.
    pub objects: usize,
    /// The oldest version that can still be opened.
    pub oldest: u64,
}

impl Library {
    /// Gives up removed experts and replaced versions older than `grace`, and deletes what only
    /// they needed. With `dry` nothing is changed,
    /// and without a grace time the objects of removed experts are not counted.
    ///
    /// # Errors
    /// When the store cannot be written; then it can be repeated.
    pub fn purge(&self, grace: Duration, dry: bool) -> Result<Purged> {
        self.check_writable()?;
        self.refresh()?;
        let snapshot = self.snapshot();
        let cut = manifest::now().saturating_sub(grace.as_secs());
        let gone: Vec<_> = { self.removed()?.into_iter() }
            .filter(|(_, entry)| entry.removed.is_some_and(|when| when <= cut))
            .map(|(name, _)| (name, Edit::Forget))
            .collect();
        let experts = gone.len();
        if !dry {
            self.commit(&snapshot, &gone, true)?;
        }
        let head = self.snapshot();
        // Dry, the head's own epoch is the one that would end.
        let (oldest, garbage) = self.garbage(&head, cut, head.epoch() + u64::from(dry))?;
        if !dry {
            let store = &*self.shared.objects.store;
            store.delete_all(&garbage)?;
            store.sweep(grace)?;
        }
        Ok(Purged {
            experts,
            objects: garbage.len(),
            oldest,
        })
    }

    /// The oldest version still needed at `cut`, and the keys of objects written before `epoch`
    /// that nothing needs.
    pub(super) fn garbage(
        &self,
        head: &Snapshot,
        cut: u64,
        epoch: u64,
    ) -> Result<(u64, Vec<String>)> {
        let (oldest, needed) = self.needed(head, cut)?;
        let mut garbage = self.shared.objects.store.list(blob::FOLDER)?;
        // A key that is none of ours is left alone.
        let old = |key: &str| Blob::at_key(key).is_some_and(|(written, _)| written < epoch);
        garbage.retain(|key| old(key) && !needed.contains(key));
        Ok((oldest, garbage))
    }

    /// The oldest version that was still current at time `cut`, and the keys that it and all
    /// later ones refer to.
    fn needed(&self, head: &Snapshot, cut: u64) -> Result<(u64, BTreeSet<String>)> {
        let objects = &self.shared.objects;
        let mut needed = BTreeSet::new();
        let mut shards = BTreeSet::new();
        let mut oldest = head.version();
        let mut version = head.version();
        while version > 0 {
            let snapshot = match version == head.version() {
                true => head.clone(),
                false => match Snapshot::at(objects, version) {
                    Ok(snapshot) => snapshot,
                    // Purged before; everything older was too.
                    Err(_) if self.was_purged(version)? => break,
                    Err(error) => return Err(error),
                },
            };
            oldest = version;
            needed.extend(snapshot.manifest.iter().map(|m| m.root.key()));
            // Shards that did not change since are already accounted for.
            let fresh: Vec<Blob> = { snapshot.index.blobs() }
                .filter(|blob| shards.insert((*blob).clone()))
                .cloned()
                .collect();
            if !fresh.is_empty() {
                let all = snapshot.all(objects)?;
                needed.extend(all.values().flat_map(|e| e.blobs().map(Blob::key)));
                needed.extend(fresh.iter().map(Blob::key));
            }
            // The version before was current until this one came.
            if snapshot.time() <= cut {
                break;
            }
            version -= 1;
        }
        Ok((oldest, needed))
    }

    fn was_purged(&self, version: u64) -> Result<bool> {
        let store = &*self.shared.objects.store;
        let manifest = manifest::read(store, version)?;
        let Some(manifest) = manifest else {
            return Ok(false);
        };
        Ok(!store.exists(&manifest.root.key())?)
    }
}
