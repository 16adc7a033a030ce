//! The local cache of remote files.
//!
//! ```text
//! objects/<ab>/<sha256>       bytes by their hash, verified before every use
//! folders/<hash>/<name>/…     repositories as folders: links to objects
//! places/<hash>/…             small files of a place as last seen, for use offline
//! training/<hash>/…           what interrupted trainings go on from; no limit touches it
//! locks/…, limit              who is fetching what; the most bytes kept
//! ```
//!
//! Any number of processes share it: files come into place whole, by a rename, and whoever
//! fetches something large holds a lock that ends with the process. What was not used for longest
//! goes first when there is more than the limit.

mod size;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

pub use size::Usage;

use crate::digest::{hex, sha256};
use crate::error::{Error, Result};

/// A folder of verified copies.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    /// Bytes written by this handle since the size was last looked at.
    fresh: Arc<AtomicU64>,
}

impl Cache {
    /// The cache in the folder `root`; made by the first use.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Cache {
            root: root.into(),
            // A first write looks at what others left.
            fresh: Arc::new(AtomicU64::new(u64::MAX / 2)),
        }
    }

    /// The folder of what interrupted trainings go on from.
    pub fn training(&self) -> PathBuf {
        self.root.join("training")
    }

    fn object(&self, sha: &str) -> PathBuf {
        let ab = sha.get(..2).unwrap_or("00");
        self.root.join("objects").join(ab).join(sha)
    }

    /// The file that holds the bytes of SHA-256 `sha`, verified and noted as used now. One that
    /// is damaged is deleted.
    pub(super) fn file(&self, sha: &str) -> Option<PathBuf> {
        let path = self.object(sha);
        let found = hash(&path).ok()?;
        if found == sha {
            touch(&path);
            return Some(path);
        }
        let _ = std::fs::remove_file(&path);
        None
    }

    /// The bytes of SHA-256 `sha`, if they are here and whole.
    pub(super) fn get(&self, sha: &str) -> Option<Vec<u8>> {
        let path = self.object(sha);
        let bytes = std::fs::read(&path).ok()?;
        if sha256(&bytes) == sha {
            touch(&path);
            return Some(bytes);
        }
        let _ = std::fs::remove_file(&path);
        None
    }

    /// A file to be filled, which [`Cache::keep`] takes.
    pub(super) fn draft(&self) -> Result<tempfile::NamedTempFile> {
        let dir = self.root.join("objects");
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        let made = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&dir);
        made.map_err(|e| Error::io(&dir, e))
    }

    /// Keeps `draft`, whose bytes are known to be of SHA-256 `sha`.
    pub(super) fn keep(&self, draft: tempfile::NamedTempFile, sha: &str) -> Result<PathBuf> {
        let path = self.object(sha);
        let io = |e| Error::io(&path, e);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        let bytes = draft.as_file().metadata().map_err(io)?.len();
        #[cfg(unix)]
        std::fs::set_permissions(
            draft.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o444),
        )
        .map_err(io)?;
        draft.persist(&path).map_err(|e| io(e.error))?;
        self.bound(bytes);
        Ok(path)
    }

    /// Keeps `bytes`, which are of SHA-256 `sha`.
    pub(super) fn put(&self, sha: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.object(sha);
        if path.is_file() {
            touch(&path);
            return Ok(path);
        }
        let mut draft = self.draft()?;
        { draft.write_all(bytes) }.map_err(|e| Error::io(draft.path(), e))?;
        self.keep(draft, sha)
    }

    fn place(&self, place: &str, key: &str) -> PathBuf {
        self.root.join("places").join(short(place)).join(key)
    }

    /// Notes what `key` of `place` was when last seen.
    pub(super) fn remember(&self, place: &str, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(place, key);
        match std::fs::read(&path) {
            Ok(there) if there == bytes => Ok(()),
            _ => crate::file::write(&path, bytes),
        }
    }

    /// The bytes of `key` of `place` when it was last read.
    pub(super) fn recall(&self, place: &str, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.place(place, key)).ok()
    }

    /// The folder called `name` for `what`.
    pub(super) fn folder(&self, what: &str, name: &str) -> PathBuf {
        self.root.join("folders").join(short(what)).join(name)
    }

    /// Waits until no other process fetches `what`. The lock ends when it is dropped, also by
    /// the death of the process.
    pub(super) fn lock(&self, what: &str) -> Result<File> {
        let path = self.root.join("locks").join(short(what));
        let io = |e| Error::io(&path, e);
        std::fs::create_dir_all(self.root.join("locks")).map_err(io)?;
        let file = File::create(&path).map_err(io)?;
        file.lock().map_err(io)?;
        Ok(file)
    }
}

/// Notes that `path` is used now.
pub(super) fn touch(path: &Path) {
    let times = std::fs::FileTimes::new().set_modified(SystemTime::now());
    let _ = File::open(path).and_then(|file| file.set_times(times));
}

/// Hex SHA-256 of the file at `path`.
fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// A file name for any text.
fn short(text: &str) -> String {
    sha256(text)[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn aged(path: &Path, seconds: u64) {
        let when = SystemTime::now() - Duration::from_secs(seconds);
        let times = std::fs::FileTimes::new().set_modified(when);
        File::open(path).unwrap().set_times(times).unwrap();
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cache"));
        assert_eq!(cache.get(&sha256(b"abc")), None);
        let path = cache.put(&sha256(b"abc"), b"abc").unwrap();
        assert_eq!(cache.get(&sha256(b"abc")).unwrap(), b"abc");
        for wrong in [&b"abd"[..], b"ab", b""] {
            cache.put(&sha256(b"abc"), b"abc").unwrap();
            crate::file::write(&path, wrong).unwrap();
            assert!(cache.get(&sha256(b"abc")).is_none() && !path.exists());
            cache.put(&sha256(b"abc"), b"abc").unwrap();
            crate::file::write(&path, wrong).unwrap();
            assert!(cache.file(&sha256(b"abc")).is_none() && !path.exists());
        }
    }

    #[test]
    fn what_was_unused_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cache"));
        cache.set_limit(1000).unwrap();
        let bytes = |n: u8| vec![n; 300];
        for n in 0..3u8 {
            let path = cache.put(&sha256(bytes(n)), &bytes(n)).unwrap();
            aged(&path, 100 - u64::from(n));
        }
        // The oldest is used again, so the next one goes.
        assert!(cache.get(&sha256(bytes(0))).is_some());
        cache.put(&sha256(bytes(3)), &bytes(3)).unwrap();
        let held: Vec<bool> = (0..4)
            .map(|n| cache.get(&sha256(bytes(n))).is_some())
            .collect();
        assert_eq!(held, [true, false, true, true]);
        // A folder's objects stay until the folder is the oldest.
        let folder = cache.folder("what", "name");
        std::fs::create_dir_all(&folder).unwrap();
        let object = cache.object(&sha256(bytes(0)));
        std::fs::hard_link(&object, folder.join("file")).unwrap();
        aged(&object, 1000);
        cache.put(&sha256(bytes(4)), &bytes(4)).unwrap();
        assert!(object.exists() && folder.exists());
        aged(folder.parent().unwrap(), 2000);
        cache.put(&sha256(bytes(5)), &bytes(5)).unwrap();
        assert!(!folder.exists());
        let usage = cache.usage().unwrap();
        assert!(usage.bytes <= 1000 && usage.folders == 0, "{usage:?}");
        cache.clear().unwrap();
        assert_eq!(cache.usage().unwrap().objects, 0);
        assert_eq!(cache.limit(), 1000);
    }

    #[test]
    fn places_are_remembered_apart() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        cache.remember("s3://a", "versions/1", b"1").unwrap();
        cache.remember("s3://a", "versions/1", b"2").unwrap();
        assert_eq!(cache.recall("s3://a", "versions/1").unwrap(), b"2");
        assert_eq!(cache.recall("s3://b", "versions/1"), None);
    }
}
