//! Checking that everything a library refers to is there and is what it should be.

use std::collections::BTreeSet;

use super::Library;
use super::blob::{self, Blob, Objects};
use super::entry::Entry;
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Card;
use crate::name::Name;
use crate::store::each;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// The version checked.
    pub version: u64,
    /// Experts it lists.
    pub experts: usize,
    /// Objects it refers to, all read and hashed.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects this version does not refer to: older versions, or what stopped writers left. A
    /// purge deletes them once nothing needs them.
    pub unreferenced: usize,
    /// What is wrong; empty when all is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The expert concerned.
    pub expert: Name,
    /// What is wrong.
    pub why: String,
}

impl Library {
    /// Reads and verifies everything the version looked at refers to: every object's size and
    /// hash, every expert's weights against its card, the card against the index, every artifact.
    ///
    /// # Errors
    /// When the index itself cannot be read; what is wrong with experts is in the result.
    pub fn check(&self) -> Result<Checked> {
        let direct = self.direct();
        let objects = &direct.shared.objects;
        let snapshot = direct.snapshot();
        let all: Vec<(Name, Entry)> = snapshot.all(objects)?.into_iter().collect();
        let mut referred: BTreeSet<&Blob> = BTreeSet::new();
        referred.extend(snapshot.index.blobs());
        referred.extend(snapshot.manifest.iter().map(|m| &m.root));
        referred.extend(all.iter().flat_map(|(_, entry)| entry.blobs()));
        let width = objects.store.width();
        let found = each(width, &all, |(name, entry)| Ok(direct.faults(name, entry)))?;
        let problems = found.into_iter().flatten().collect();
        let keys: BTreeSet<String> = referred.iter().map(|blob| blob.key()).collect();
        let kept = objects.store.list(blob::FOLDER)?;
        let unreferenced = kept.iter().filter(|key| !keys.contains(*key)).count();
        Ok(Checked {
            version: snapshot.version(),
            experts: all.iter().filter(|(_, entry)| entry.live()).count(),
            objects: referred.len(),
            bytes: referred.iter().map(|blob| blob.size()).sum(),
            unreferenced,
            problems,
        })
    }

    /// The same version read from the place itself, without copies of it.
    fn direct(&self) -> Library {
        let store = self.shared.objects.origin();
        let snapshot = (*self.snapshot()).clone();
        Library::looking(Objects { store }, true, snapshot)
    }

    fn faults(&self, name: &Name, entry: &Entry) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                let expert = name.clone();
                let why = error.chain();
                problems.push(Problem { expert, why });
            }
        };
        // Files that decoding does not read are verified all the same.
        for blob in entry.files.values() {
            note(self.shared.objects.get(blob).map(|_| ()));
        }
        note(self.expert_fits(name, entry));
        for (kind, derived) in &entry.artifacts {
            note(self.read_artifact(derived).and_then(|artifact| {
                let fits = artifact.kind == *kind
                    && artifact.expert == *name
                    && artifact.made_from == derived.made_from;
                match fits {
                    true => Ok(()),
                    false => Err(misfit(&artifact)),
                }
            }));
        }
        problems
    }

    fn expert_fits(&self, name: &Name, entry: &Entry) -> Result<()> {
        let expert = self.expert_of(name, entry)?;
        let listed = |card: &Card| {
            let again = Entry::new(card, entry.files.clone());
            card.name == *name
                && again
                    == Entry {
                        added: 0,
                        removed: None,
                        artifacts: std::collections::BTreeMap::new(),
                        ..entry.clone()
                    }
        };
        match listed(&expert.card) {
            true => Ok(()),
            false => Err(Error::format(
                format!("experts/{name}"),
                "the index lists it with other properties than its card",
            )),
        }
    }
}

fn misfit(artifact: &Artifact) -> Error {
    Error::format(
        format!("the {} artifact of {}", artifact.kind, artifact.expert),
        "the index lists it under another name or expert",
    )
}
