//! The size of a cache: its statistics, its limit, and the eviction of what was unused for longest.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Cache;
use crate::error::{Error, Result};

/// The most bytes kept unless `lyceum cache limit` said otherwise.
const LIMIT: u64 = 20_000_000_000;

/// Statistics of a cache.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The cache's folder.
    pub folder: PathBuf,
    /// Objects kept.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Repositories held as folders; their files are objects.
    pub folders: usize,
    /// The most bytes kept.
    pub limit: u64,
    /// Trainings that were interrupted and whose steps are kept, whatever the limit.
    pub trainings: usize,
    /// The bytes of these.
    pub training_bytes: u64,
}

/// Something that can be given up.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    used: SystemTime,
    folder: bool,
    path: PathBuf,
    bytes: u64,
}

impl Cache {
    /// The most bytes kept.
    pub fn limit(&self) -> u64 {
        let text = std::fs::read_to_string(self.root.join("limit")).ok();
        let said = text.and_then(|text| text.trim().parse().ok());
        said.unwrap_or(LIMIT)
    }

    /// Keeps at most `bytes` from now on, and gives up what is more.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn set_limit(&self, bytes: u64) -> Result<Usage> {
        crate::file::write(&self.root.join("limit"), bytes.to_string().as_bytes())?;
        self.trim();
        self.usage()
    }

    /// The cache's size and limit.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let held = self.held()?;
        let objects = held.iter().filter(|held| !held.folder);
        let trainings = entries(&self.training())?;
        let mut training_bytes = 0;
        for training in &trainings {
            for file in entries(training)? {
                // One that ended meanwhile is gone.
                training_bytes += file.metadata().map_or(0, |meta| meta.len());
            }
        }
        Ok(Usage {
            folder: self.root.clone(),
            objects: objects.clone().count(),
            bytes: objects.map(|held| held.bytes).sum(),
            folders: held.iter().filter(|held| held.folder).count(),
            limit: self.limit(),
            trainings: trainings.len(),
            training_bytes,
        })
    }

    /// Gives up everything. Returns what there was.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn clear(&self) -> Result<Usage> {
        let usage = self.usage()?;
        for part in ["folders", "objects", "places", "training"] {
            let dir = self.root.join(part);
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&dir, e));
                }
                _ => {}
            }
        }
        Ok(usage)
    }

    /// Looks at the size when enough was written since the last look: a twentieth of the limit.
    pub(super) fn bound(&self, written: u64) {
        let fresh = self.fresh.fetch_add(written, Ordering::Relaxed);
        if fresh.saturating_add(written) > self.limit() / 20 {
            self.fresh.store(0, Ordering::Relaxed);
            self.trim();
        }
    }

    /// Gives up what was unused for longest until the limit is kept. Best effort: a cache that is
    /// too large does no harm.
    fn trim(&self) {
        let limit = self.limit();
        // Two rounds: a folder's objects can only go once the folder has.
        for _ in 0..2 {
            let Ok(mut held) = self.held() else { return };
            held.sort();
            let objects = held.iter().filter(|held| !held.folder);
            let mut total: u64 = objects.map(|held| held.bytes).sum();
            for old in held {
                if total <= limit {
                    return;
                }
                if old.folder {
                    let _ = std::fs::remove_dir_all(&old.path);
                } else if !linked(&old.path) && std::fs::remove_file(&old.path).is_ok() {
                    total -= old.bytes;
                }
            }
        }
    }

    fn held(&self) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for ab in entries(&self.root.join("objects"))? {
            for path in entries(&ab)? {
                // Another process may have given it up meanwhile.
                if let Ok(meta) = path.metadata() {
                    let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    let bytes = meta.len();
                    held.push(Held {
                        used,
                        folder: false,
                        path,
                        bytes,
                    });
                }
            }
        }
        for path in entries(&self.root.join("folders"))? {
            if let Ok(meta) = path.metadata() {
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                held.push(Held {
                    used,
                    folder: true,
                    path,
                    bytes: 0,
                });
            }
        }
        Ok(held)
    }
}

/// The paths in `dir` that are not hidden; none when there is no such folder.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        // What is not a folder holds nothing.
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    let seen = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !name.starts_with('.'))
    };
    let paths = listed.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(seen).collect())
}

#[cfg(unix)]
fn linked(path: &Path) -> bool {
    let links = path
        .metadata()
        .map(|m| std::os::unix::fs::MetadataExt::nlink(&m));
    links.is_ok_and(|links| links > 1)
}

#[cfg(not(unix))]
fn linked(_: &Path) -> bool {
    false
}
