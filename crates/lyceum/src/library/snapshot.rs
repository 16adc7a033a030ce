//! One version, as a reader sees it.

use std::collections::BTreeMap;

use super::blob::Objects;
use super::entry::Entry;
use super::index::Index;
use super::manifest::{self, Manifest};
use crate::error::{Context, Error, Result};
use crate::name::Name;

/// A version and its entries. Everything it refers to is immutable, so it never changes.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// `None` before the first commit.
    pub(crate) manifest: Option<Manifest>,
    pub(crate) index: Index,
}

impl Snapshot {
    /// That of a library without a commit.
    pub(crate) fn none() -> Self {
        Snapshot {
            manifest: None,
            index: Index::empty(),
        }
    }

    /// The latest version, known to be at least `known`'s.
    pub(crate) fn latest(objects: &Objects, known: Option<&Snapshot>) -> Result<Self> {
        let version = known.map_or(0, Snapshot::version);
        match manifest::latest(&*objects.store, version)? {
            Some(manifest) if manifest.version == version => match known {
                Some(known) => Ok(known.clone()),
                None => Snapshot::of(objects, manifest),
            },
            Some(manifest) => Snapshot::of(objects, manifest),
            None => Ok(Snapshot::none()),
        }
    }

    /// The version `version`.
    pub(crate) fn at(objects: &Objects, version: u64) -> Result<Self> {
        match manifest::read(&*objects.store, version)? {
            Some(manifest) => Snapshot::of(objects, manifest),
            None => Err(Error::not_found("version", &version.to_string(), [])),
        }
    }

    fn of(objects: &Objects, manifest: Manifest) -> Result<Self> {
        let version = manifest.version;
        let index = Index::read(objects, &manifest.root).context(|| {
            format!("version {version} cannot be read: it was purged, or the store is damaged")
        })?;
        Ok(Snapshot {
            manifest: Some(manifest),
            index,
        })
    }

    pub(crate) fn version(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.version)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.epoch)
    }

    pub(crate) fn time(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.time)
    }

    pub(crate) fn experts(&self) -> u64 {
        self.manifest.as_ref().map_or(0, |m| m.experts)
    }

    /// All entries, removed ones too.
    pub(crate) fn all(&self, objects: &Objects) -> Result<BTreeMap<Name, Entry>> {
        self.index.all(objects)
    }
}
