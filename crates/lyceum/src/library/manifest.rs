//! Numbered manifests: the one place where writers meet.
//!
//! Version `n` exists when `versions/<n>.json` does, and is decided by one conditional create.
//! Manifests are never changed or deleted, so no number is ever given out twice. `versions/latest`
//! is only a hint where to begin looking.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::{Change as KeyChange, Put, Store};

const HINT: &str = "versions/latest";
/// Far more versions, or purges, than there will ever be; what claims more is damaged.
const MOST: u64 = 1 << 53;
/// A manifest names at most so many of its changes.
pub(crate) const NAMED: usize = 32;

/// One version of a library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its number; the first is 1.
    pub version: u64,
    /// Number of purges before it.
    pub epoch: u64,
    /// When it was committed, in seconds since 1970 (UTC); never before its parent.
    pub time: u64,
    /// The program that committed it.
    pub by: String,
    /// A random mark, by which a writer knows its own manifest again.
    pub writer: String,
    /// Number of experts it lists.
    pub experts: u64,
    /// The first few changes.
    pub changes: Vec<Change>,
    /// Number of changes.
    pub changed: u64,
    /// The index of its entries.
    pub(crate) root: Blob,
}

/// A change to one expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The kind of change.
    #[serde(rename = "did")]
    pub operation: Operation,
    /// The expert.
    pub expert: Name,
    /// The artifact's kind, or the new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
}

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A new name.
    Added,
    /// Other files under an old name.
    Replaced,
    /// No longer listed; can be restored.
    Removed,
    /// Listed again.
    Restored,
    /// Under another name.
    Renamed,
    /// An artifact was kept.
    Derived,
    /// A removed one was given up.
    Purged,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operation = match self.operation {
            Operation::Added => "added",
            Operation::Replaced => "replaced",
            Operation::Removed => "removed",
            Operation::Restored => "restored",
            Operation::Renamed => "renamed",
            Operation::Derived => "derived",
            Operation::Purged => "purged",
        };
        match (&self.to, self.operation) {
            (Some(kind), Operation::Derived) => write!(f, "derived {kind} of {}", self.expert),
            (Some(to), _) => write!(f, "{operation} {} to {to}", self.expert),
            (None, _) => write!(f, "{operation} {}", self.expert),
        }
    }
}

fn key(version: u64) -> String {
    // 20 digits hold any number, so that keys sort as numbers do.
    format!("versions/{version:020}.json")
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|d| d.as_secs()).unwrap_or_default()
}

/// The manifest of `version`; `None` when there is no such version.
pub(crate) fn read(store: &dyn Store, version: u64) -> Result<Option<Manifest>> {
    let key = key(version);
    let bytes = match store.get(&key) {
        Ok(bytes) => bytes,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| Error::format(&key, e))?;
    if manifest.version != version {
        return Err(Error::format(
            key,
            format!("it says it is version {}", manifest.version),
        ));
    }
    if manifest.epoch > MOST {
        return Err(Error::format(key, format!("{} purges", manifest.epoch)));
    }
    Ok(Some(manifest))
}

/// Puts `manifest` under its number, and changes `also` with it where the store can. `false` when
/// another writer was first.
pub(crate) fn create(
    store: &dyn Store,
    manifest: &Manifest,
    mut also: Vec<KeyChange>,
) -> Result<bool> {
    let key = key(manifest.version);
    let bytes = serde_json::to_vec(manifest).map_err(|e| Error::format(&key, e))?;
    also.push((
        HINT.to_owned(),
        Some(manifest.version.to_string().into_bytes()),
    ));
    match store.create(&key, &bytes, &also) {
        Ok(()) => {}
        // A retry after a lost answer finds what it wrote itself.
        Err(Error::Exists { .. }) => {
            let there = read(store, manifest.version)?;
            if there.is_none_or(|there| there.writer != manifest.writer) {
                return Ok(false);
            }
        }
        Err(error) => return Err(error),
    }
    if !store.atomic() {
        store.flush()?;
        hint(store, manifest.version);
    }
    Ok(true)
}

/// Leaves a hint that `version` exists; readers do without it, only slower.
fn hint(store: &dyn Store, version: u64) {
    let _ = store.put(HINT, version.to_string().as_bytes(), Put::Replace);
}

fn hinted(store: &dyn Store) -> u64 {
    let text = store.get(HINT).ok().and_then(|b| String::from_utf8(b).ok());
    text.and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

/// The latest version, looked for from `known` (0: nothing is known) or the hint upwards; `None`
/// when nothing was ever committed. Versions are contiguous from 1, so doubling steps and then
/// halving find the end with few looks.
pub(crate) fn latest(store: &dyn Store, known: u64) -> Result<Option<Manifest>> {
    let begin = known.max(hinted(store)).min(MOST);
    let mut best = match begin {
        0 => None,
        version => read(store, version)?,
    };
    if best.is_none() && begin > known {
        // The hint lied: begin from what is sure.
        best = if known > 0 { read(store, known)? } else { None };
    }
    let mut low = best.as_ref().map_or(0, |m| m.version);
    let mut step = 1;
    let mut high = loop {
        match read(store, low + step)? {
            Some(manifest) => {
                low = manifest.version;
                best = Some(manifest);
                step *= 2;
            }
            None => break low + step,
        }
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match read(store, middle)? {
            Some(manifest) => {
                low = middle;
                best = Some(manifest);
            }
            None => high = middle,
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    fn manifest(version: u64) -> Manifest {
        Manifest {
            version,
            epoch: 0,
            time: 0,
            by: "test".into(),
            writer: crate::rng::unique_id(),
            experts: 0,
            changes: Vec::new(),
            changed: 0,
            root: Blob::of(b"", 0),
        }
    }

    #[test]
    fn the_latest_is_found_whatever_the_hint_says() {
        let store = Memory::private("hints");
        assert_eq!(latest(&*store, 0).unwrap(), None);
        for last in 1..40 {
            assert!(create(&*store, &manifest(last), Vec::new()).unwrap());
            for hinted in [0, 1, last / 2, last, last + 7] {
                hint(&*store, hinted);
                for known in [0, 1, last] {
                    let found = latest(&*store, known).unwrap().unwrap();
                    assert_eq!(found.version, last, "hint {hinted}, known {known}");
                }
            }
        }
        store.put(HINT, b"nonsense", Put::Replace).unwrap();
        assert_eq!(latest(&*store, 0).unwrap().unwrap().version, 39);
    }

    #[test]
    fn a_writer_knows_its_own_manifest_again_and_no_other() {
        let store = Memory::private("own");
        let (mine, other) = (manifest(1), manifest(1));
        assert!(create(&*store, &mine, Vec::new()).unwrap());
        assert!(create(&*store, &mine, Vec::new()).unwrap());
        assert!(!create(&*store, &other, Vec::new()).unwrap());
    }
}
