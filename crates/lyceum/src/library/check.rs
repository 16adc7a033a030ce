//! Checking that everything a library refers to is there and is what it should be.

use std::collections::{BTreeMap, BTreeSet};

use super::blob::{self, Blob, Objects};
use super::entry::{Derived, Entry};
use super::snapshot::Snapshot;
use super::{Access, Library};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::name::Name;
use crate::peft;
use crate::store::each;

/// The results of a check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// The version checked.
    pub version: u64,
    /// Experts it lists.
    pub experts: usize,
    /// Objects it refers to that were read and are what their names say.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects this version does not refer to: older versions, or what stopped writers left. A
    /// purge deletes them once nothing needs them.
    pub unreferenced: usize,
    /// Problems; empty when all is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The expert concerned.
    pub expert: Name,
    /// A description of the problem.
    pub why: String,
}

/// An expert and its artifacts as they were read from the place itself.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    pub(crate) name: &'a Name,
    pub(crate) entry: &'a Entry,
    /// `None` when it cannot be read, which is a problem already noted.
    pub(crate) expert: Option<Expert>,
    /// Those that can be read, by kind.
    pub(crate) artifacts: BTreeMap<Name, Artifact>,
}

/// The results of checking one entry.
struct Looked<R> {
    found: R,
    problems: Vec<Problem>,
    /// Objects that are missing or damaged.
    bad: Vec<Blob>,
}

impl Library {
    /// Reads and verifies everything the version looked at refers to, from the place itself and
    /// not from copies of it: every object's size and hash, every expert's weights against its
    /// card, the card against the index, every artifact.
    ///
    /// # Errors
    /// When the index itself cannot be read; what is wrong with experts is in the result.
    pub fn check(&self) -> Result<Checked> {
        self.verified(|_| ()).map(|(checked, _)| checked)
    }

    /// As [`Library::check`]; `look` sees each expert, removed ones too, while it is in memory.
    pub(crate) fn verified<R: Send>(
        &self,
        look: impl Fn(&Verified<'_>) -> R + Sync,
    ) -> Result<(Checked, Vec<R>)> {
        let direct = self.direct()?;
        let objects = &direct.shared.objects;
        let kept = objects.store.list(blob::FOLDER)?;
        let snapshot = direct.snapshot();
        let all: Vec<(Name, Entry)> = snapshot.all(objects)?.into_iter().collect();
        let mut referred: BTreeSet<&Blob> = BTreeSet::new();
        referred.extend(snapshot.index.blobs());
        referred.extend(snapshot.manifest.iter().map(|m| &m.root));
        referred.extend(all.iter().flat_map(|(_, entry)| entry.blobs()));
        let width = objects.store.width();
        let looked = each(width, &all, |(name, entry)| {
            Ok(direct.look(name, entry, &look))
        })?;
        let (mut problems, mut found) = (Vec::new(), Vec::new());
        let mut bad = BTreeSet::new();
        for one in looked {
            problems.extend(one.problems);
            found.push(one.found);
            bad.extend(one.bad);
        }
        let keys: BTreeSet<String> = referred.iter().map(|blob| blob.key()).collect();
        let whole = referred.into_iter().filter(|blob| !bad.contains(*blob));
        let whole: Vec<&Blob> = whole.collect();
        let checked = Checked {
            version: snapshot.version(),
            experts: all.iter().filter(|(_, entry)| entry.live()).count(),
            objects: whole.len(),
            bytes: whole.iter().map(|blob| blob.size()).sum(),
            unreferenced: kept.iter().filter(|key| !keys.contains(*key)).count(),
            problems,
        };
        Ok((checked, found))
    }

    /// True if its objects are another tool's files, held in memory.
    pub fn is_foreign(&self) -> bool {
        self.shared.access == Access::Foreign
    }

    /// The same version, its manifest and index too, read from the place itself.
    fn direct(&self) -> Result<Library> {
        let objects = Objects {
            store: self.shared.objects.origin(),
        };
        let seen = self.snapshot();
        let snapshot = match &seen.manifest {
            None => Snapshot::none(),
            Some(manifest) => Snapshot::at(&objects, manifest.version)?,
        };
        if snapshot.manifest != seen.manifest {
            let text = format!("version {} is another than it was", seen.version());
            return Err(Error::format(self.uri(), text));
        }
        Ok(Library::looking(objects, self.shared.access, snapshot))
    }

    fn look<R>(&self, name: &Name, entry: &Entry, look: impl Fn(&Verified<'_>) -> R) -> Looked<R> {
        let mut problems = Vec::new();
        let mut bad = Vec::new();
        let mut note = |error: Error| {
            let (expert, why) = (name.clone(), error.chain());
            problems.push(Problem { expert, why });
        };
        let mut verified = Verified {
            name,
            entry,
            expert: None,
            artifacts: BTreeMap::new(),
        };
        let mut files = BTreeMap::new();
        for (file, blob) in &entry.files {
            match self.shared.objects.get(blob) {
                Ok(bytes) => {
                    files.insert(file.as_str(), bytes);
                }
                Err(error) => {
                    note(error);
                    bad.push(blob.clone());
                }
            }
        }
        if files.len() == entry.files.len() {
            match fitting(name, entry, &files) {
                Ok(expert) => verified.expert = Some(expert),
                Err(error) => note(error),
            }
        }
        for (kind, derived) in &entry.artifacts {
            match self.shared.objects.get(&derived.file) {
                Ok(bytes) => match artifact(name, kind, derived, &bytes) {
                    Ok(artifact) => {
                        verified.artifacts.insert(kind.clone(), artifact);
                    }
                    Err(error) => note(error),
                },
                Err(error) => {
                    note(error);
                    bad.push(derived.file.clone());
                }
            }
        }
        Looked {
            found: look(&verified),
            problems,
            bad,
        }
    }
}

/// The expert of these files, if the index lists it as what it is.
fn fitting(name: &Name, entry: &Entry, files: &BTreeMap<&str, Vec<u8>>) -> Result<Expert> {
    let what = format!("experts/{name}");
    let expert = peft::decode(&what, |file| {
        // What the entry lacks is said as everywhere.
        entry.file(name, file)?;
        Ok(files.get(file).cloned().unwrap_or_default())
    })?;
    let card = &expert.card;
    let listed = Entry {
        added: 0,
        removed: None,
        artifacts: BTreeMap::new(),
        ..entry.clone()
    };
    match card.name == *name && Entry::new(card, entry.files.clone()) == listed {
        true => Ok(expert),
        false => Err(Error::format(
            what,
            "the index lists it with other properties than its card",
        )),
    }
}

/// The artifact `bytes` are, if the index lists it as what it is.
fn artifact(name: &Name, kind: &Name, derived: &Derived, bytes: &[u8]) -> Result<Artifact> {
    let artifact = Artifact::decode(bytes, &derived.file.key())?;
    let fits = artifact.kind == *kind
        && artifact.expert == *name
        && artifact.made_from == derived.made_from;
    match fits {
        true => Ok(artifact),
        false => Err(Error::format(
            format!("the {} artifact of {}", artifact.kind, artifact.expert),
            "the index lists it under another name or expert",
        )),
    }
}
