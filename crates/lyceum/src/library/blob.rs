//! Immutable content: where it is kept follows from what it is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::store::{Put, Store};

/// One immutable object: the epoch it was written in, its size and its SHA-256. Written
/// `epoch:size:sha256`.
///
/// An epoch ends with every purge. A version may only refer to objects of its own epoch, or to
/// those its parent refers to; so whatever a purge finds unreferenced stays unreferenced, however
/// slowly it deletes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blob {
    epoch: u64,
    size: u64,
    sha256: Box<str>,
}

impl Blob {
    /// The identity of `bytes` when written in `epoch`.
    pub(crate) fn of(bytes: &[u8], epoch: u64) -> Self {
        Blob {
            epoch,
            size: bytes.len() as u64,
            sha256: sha256(bytes).into(),
        }
    }

    /// The purge before which it was written.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hex SHA-256 of its bytes.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The object's key in the store.
    pub fn key(&self) -> String {
        let (epoch, sha) = (self.epoch, &self.sha256);
        format!("{FOLDER}{epoch}/{}/{sha}", &sha[..2])
    }

    /// The blob a store key names, if it is one of an object; its size is not known.
    pub(crate) fn at_key(key: &str) -> Option<(u64, &str)> {
        let (epoch, rest) = key.strip_prefix(FOLDER)?.split_once('/')?;
        let (_, sha) = rest.split_once('/')?;
        Some((epoch.parse().ok()?, sha))
    }

    /// Returns `true` if `other` has the same bytes, whenever they were written.
    pub(crate) fn same(&self, other: &Blob) -> bool {
        self.sha256 == other.sha256 && self.size == other.size
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        let found = Blob::of(bytes, self.epoch);
        if found == *self {
            return Ok(());
        }
        Err(Error::format(
            self.key(),
            format!(
                "damaged: {} bytes of SHA-256 {:.12} instead of {} bytes of {:.12}",
                found.size, found.sha256, self.size, self.sha256
            ),
        ))
    }
}

/// The folder of objects.
pub(crate) const FOLDER: &str = "objects/";

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.epoch, self.size, self.sha256)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<Blob> for String {
    fn from(blob: Blob) -> String {
        blob.to_string()
    }
}

impl TryFrom<String> for Blob {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        let bad = || Error::invalid(format!("`{text}` does not name an object"));
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or_else(bad);
        let (epoch, size, sha) = (next()?, next()?, next()?);
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if parts.next().is_some() || sha.len() != 64 || !sha.chars().all(hex) {
            return Err(bad());
        }
        Ok(Blob {
            epoch: epoch.parse().map_err(|_| bad())?,
            size: size.parse().map_err(|_| bad())?,
            sha256: sha.into(),
        })
    }
}

/// The objects of one store.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    pub(crate) store: Arc<dyn Store>,
}

impl Objects {
    /// The place itself, without copies of it.
    pub(crate) fn origin(&self) -> Arc<dyn Store> {
        self.store.origin().unwrap_or_else(|| self.store.clone())
    }

    /// The bytes of `blob`, verified.
    pub(crate) fn get(&self, blob: &Blob) -> Result<Vec<u8>> {
        let bytes = self.store.get(&blob.key())?;
        blob.check(&bytes)?;
        Ok(bytes)
    }

    /// Writes `bytes` as an object of `epoch`; if it is there already, and whole, nothing is
    /// written.
    pub(crate) fn put(&self, bytes: &[u8], epoch: u64) -> Result<Blob> {
        let blob = Blob::of(bytes, epoch);
        let key = blob.key();
        match self.store.stage(&key, bytes) {
            Ok(()) => {}
            Err(Error::Exists { .. }) => {
                let origin = self.origin();
                if origin.get(&key)? != bytes {
                    // Damaged where it lies: its name says what it must be.
                    origin.put(&key, bytes, Put::Replace)?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_written_and_read_as_text_and_hostile_text_is_refused() {
        let blob = Blob::of(b"abc", 7);
        let text = serde_json::to_string(&blob).unwrap();
        assert_eq!(serde_json::from_str::<Blob>(&text).unwrap(), blob);
        assert_eq!(Blob::at_key(&blob.key()), Some((7, blob.sha256())));
        let sha = blob.sha256();
        for bad in [
            format!("7:3:{}", sha.to_uppercase()),
            format!("7:3:../{}", &sha[3..]),
            format!("7:-3:{sha}"),
            format!("7:3:{sha}:"),
            "7:3".into(),
        ] {
            assert!(Blob::try_from(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn changed_bytes_are_refused_and_written_again() {
        let store: Arc<dyn Store> = crate::store::Memory::private("changed");
        let objects = Objects {
            store: store.clone(),
        };
        let blob = objects.put(b"right", 0).unwrap();
        assert_eq!(objects.put(b"right", 0).unwrap(), blob);
        store.put(&blob.key(), b"wrong", Put::Replace).unwrap();
        let error = objects.get(&blob).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        objects.put(b"right", 0).unwrap();
        assert_eq!(objects.get(&blob).unwrap(), b"right");
    }
}
