//! Artifacts: keeping them, and reading them alone or in one visit with their experts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::entry::Entry;
use super::{Derived, Library};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::name::Name;
use crate::store::each;

/// An expert and its artifact of the kind asked for.
pub(crate) struct Visited {
    pub(crate) expert: Expert,
    /// The artifact, or why there is none; absent if no kind was asked for.
    pub(crate) artifact: Option<Result<Artifact>>,
}

impl Library {
    /// The kinds of artifacts there are, sorted.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn kinds(&self) -> Result<Vec<Name>> {
        let entries = self.entries()?;
        let kinds = entries.values().flat_map(|entry| entry.artifacts.keys());
        let kinds: BTreeSet<Name> = kinds.cloned().collect();
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

    /// Returns `true` if `expert` has an artifact of `kind` made from its present weights.
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
            let artifact = self.artifact_under(spec, kind, name, entry)?;
            Ok((name.clone(), artifact))
        };
        Ok(each(width, &entries, read)?.into_iter().collect())
    }

    /// All experts with their artifacts of `kind`, in the order of their names; nothing is read
    /// twice, and of a selection nothing else is read.
    ///
    /// # Errors
    /// When an expert cannot be read. A missing artifact is no error here.
    pub(crate) fn visit(&self, kind: Option<&Name>) -> Result<Vec<Visited>> {
        let entries: Vec<(Name, Entry)> = self.entries()?.into_iter().collect();
        let width = self.shared.objects.store.width();
        each(width, &entries, |(name, entry)| {
            Ok(Visited {
                expert: self.expert_of(name, entry)?,
                artifact: kind.map(|kind| self.fresh_artifact(kind, name, entry)),
            })
        })
    }

    /// The artifact of `kind` made from the present weights of the expert `name`.
    ///
    /// # Errors
    /// [`Error::Underived`] when there is none; when it cannot be read.
    pub(super) fn fresh_artifact(
        &self,
        kind: &Name,
        name: &Name,
        entry: &Entry,
    ) -> Result<Artifact> {
        match entry.fresh(kind) {
            Some(derived) => self.read_artifact(derived),
            None => Err(self.underived(
                kind,
                name,
                match entry.artifacts.contains_key(kind) {
                    true => "has changed since its",
                    false => "has no",
                },
            )),
        }
    }

    /// As [`Library::fresh_artifact`], made under `spec` if that is given.
    pub(super) fn artifact_under(
        &self,
        spec: Option<&Value>,
        kind: &Name,
        name: &Name,
        entry: &Entry,
    ) -> Result<Artifact> {
        let artifact = self.fresh_artifact(kind, name, entry)?;
        match spec.is_none_or(|spec| artifact.spec == *spec) {
            true => Ok(artifact),
            false => Err(self.underived(kind, name, "was given other settings for its")),
        }
    }

    fn underived(&self, kind: &Name, name: &Name, why: &str) -> Error {
        Error::Underived {
            what: format!("expert `{name}` {why} {kind} artifact"),
            library: self.uri(),
            kind: kind.to_string(),
        }
    }

    pub(super) fn read_artifact(&self, derived: &Derived) -> Result<Artifact> {
        let bytes = self.shared.objects.get(&derived.file)?;
        Artifact::decode(&bytes, &derived.file.key())
    }
}
