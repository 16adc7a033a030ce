//! The entry of one name in a version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use crate::error::{Error, Result};
use crate::expert::Card;
use crate::name::Name;
use crate::peft;

/// An expert as a version lists it: enough to list and filter, with references to the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The files of its PEFT folder.
    pub files: BTreeMap<String, Blob>,
    /// Hex SHA-256 of the weights, as in its card.
    pub fingerprint: String,
    /// Fingerprint of the base it was trained on, if it is known.
    #[serde(default)]
    pub base: Option<String>,
    /// The name of that base.
    pub base_name: String,
    /// The tasks it stands for.
    pub tasks: Vec<Name>,
    /// Rank of its adapters.
    pub rank: usize,
    /// Numerator of their scale.
    pub alpha: f64,
    /// When these files came to this name, in seconds since 1970 (UTC).
    pub added: u64,
    /// When it was removed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
    /// Artifacts derived from it, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<Name, Derived>,
}

/// An artifact as a version lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    /// The artifact.
    pub file: Blob,
    /// The expert's fingerprint when it was derived.
    pub made_from: String,
}

impl Entry {
    pub(crate) fn new(card: &Card, files: BTreeMap<String, Blob>) -> Self {
        Entry {
            files,
            fingerprint: card.weights.clone(),
            base: card.base.clone(),
            base_name: card.base_name.clone(),
            tasks: card.tasks.clone(),
            rank: card.lora.rank,
            alpha: card.lora.alpha,
            added: 0,
            removed: None,
            artifacts: BTreeMap::new(),
        }
    }

    /// Returns `true` if it is listed, that is, not removed.
    pub fn live(&self) -> bool {
        self.removed.is_none()
    }

    /// The artifact of `kind`, unless the expert has changed since.
    pub(crate) fn fresh(&self, kind: &Name) -> Option<&Derived> {
        let found = self.artifacts.get(kind);
        found.filter(|derived| derived.made_from == self.fingerprint)
    }

    /// Returns `true` if it has an artifact of `kind` made from its present weights.
    pub fn has(&self, kind: &Name) -> bool {
        self.fresh(kind).is_some()
    }

    pub(crate) fn file(&self, name: &Name, file: &str) -> Result<&Blob> {
        self.files.get(file).ok_or_else(|| {
            Error::format(
                format!("experts/{name}/{file}"),
                "this version lists no such file",
            )
        })
    }

    pub(crate) fn card(&self, name: &Name) -> Result<&Blob> {
        self.file(name, peft::CARD)
    }

    /// Returns `true` if both have the same files.
    pub(crate) fn same(&self, other: &Entry) -> bool {
        let both = self.files.iter().zip(&other.files);
        self.files.len() == other.files.len() && { both }
            .all(|((a, x), (b, y))| a == b && x.same(y))
    }

    /// Everything it refers to.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let artifacts = self.artifacts.values().map(|derived| &derived.file);
        self.files.values().chain(artifacts)
    }
}
