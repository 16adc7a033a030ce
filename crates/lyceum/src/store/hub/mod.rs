//! Repositories of a Hugging Face hub: as stores of libraries, and as folders of files.
//!
//! A commit on condition of its parent is the conditional write: of several that build on one
//! commit, one is taken. Every change is a commit, so what belongs together is committed together:
//! the objects of a version, its manifest and the folders that PEFT loads.

mod client;
mod commit;
mod repo;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) use client::offline;
use commit::Outcome;
use repo::Repo;
pub use snapshot::Snapshot;

use super::backoff::Backoff;
use super::{Address, Change, Put, Session, Store, check_key, remote_error, runtime};
use crate::error::{Error, RemoteErrorKind, Result};
use crate::rng::entropy;

/// Time for which a writer competes with others before it gives up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Staged bytes beyond this are committed before their manifest.
const STAGED: usize = 256 << 20;
/// Keys deleted by one commit.
const DELETES_PER_COMMIT: usize = 500;

type Staged = BTreeMap<String, Arc<[u8]>>;

/// Keys are files of a repository, below a folder.
#[derive(Debug)]
pub(super) struct Hub {
    uri: String,
    folder: String,
    repo: Repo,
    /// Changes for the next commit; only this handle sees them until then.
    staged: Mutex<Staged>,
}

impl Hub {
    /// The store at `address`; `None` for addresses of other kinds.
    pub(super) fn open(address: &Address, session: &Session) -> Result<Option<Self>> {
        Ok(Repo::of(address, session)?.map(|(repo, folder)| Hub {
            uri: address.to_string(),
            folder,
            repo,
            staged: Mutex::default(),
        }))
    }

    fn path(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(match self.folder.is_empty() {
            true => key.to_owned(),
            false => format!("{}/{key}", self.folder),
        })
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` on the repository, waiting for it.
    fn ask<T, F>(&self, work: impl FnOnce(Repo) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        runtime::wait(work(self.repo.clone()))
    }

    /// The commit the branch is at, the repository made if there is none.
    fn head(&self) -> Result<String> {
        match self.ask(|repo| async move { repo.head().await }) {
            Err(Error::Remote {
                kind: RemoteErrorKind::Missing,
                ..
            }) => self.ask(|repo| async move {
                repo.make().await?;
                repo.head().await
            }),
            other => other,
        }
    }

    /// Commits `changes` on the branch, if none of the keys `absent` is there.
    fn commit(&self, summary: &str, changes: Vec<Change>, absent: Option<&str>) -> Result<()> {
        let begun = Instant::now();
        let (changes, summary) = (Arc::new(changes), Arc::<str>::from(summary));
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let head = self.head()?;
            if let Some(key) = absent {
                let (at, path) = (self.repo.at(&head), self.path(key)?);
                if self.ask(|_| async move { at.holds(&path).await })? {
                    return Err(Error::Exists {
                        kind: "key",
                        name: key.to_owned(),
                    });
                }
            }
            let (changes, summary) = (changes.clone(), summary.clone());
            let parent = absent.map(|_| head);
            let outcome = self.ask(|repo| async move {
                repo.commit(parent.as_deref(), &summary, &changes).await
            })?;
            if outcome == Outcome::Done {
                return Ok(());
            }
            if begun.elapsed() > COMMIT_TIMEOUT {
                break;
            }
            std::thread::sleep(backoff.pause(None));
        }
        Err(Error::Conflict(format!(
            "other writers of {} were faster for {} seconds; try again",
            self.uri,
            COMMIT_TIMEOUT.as_secs()
        )))
    }

    /// Of `keys`, those that are not there yet.
    fn lacking(&self, staged: &Staged) -> Result<Vec<Change>> {
        let mut lacking = BTreeMap::new();
        for (key, bytes) in staged {
            lacking.insert(self.path(key)?, bytes.to_vec());
        }
        let paths: Vec<String> = lacking.keys().cloned().collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        self.head()?;
        for there in self.ask(|repo| async move { repo.info(&paths).await })? {
            lacking.remove(&there.path);
        }
        Ok(lacking.into_iter().map(|(k, b)| (k, Some(b))).collect())
    }
}

impl Store for Hub {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.path(key)?;
        if let Some(bytes) = self.staged().get(key) {
            return Ok(bytes.to_vec());
        }
        match self.ask(|repo| async move { repo.read(&path).await }) {
            // A repository that is still to be made holds nothing.
            Err(Error::NotFound { .. }) => Err(Error::not_found("file", key, [])),
            Err(Error::Remote {
                kind: RemoteErrorKind::Missing,
                ..
            }) => Err(Error::not_found("file", key, [])),
            other => other,
        }
    }

    fn exists(&self, key: &str) -> Result<bool> {
        let path = self.path(key)?;
        if self.staged().contains_key(key) {
            return Ok(true);
        }
        match self.ask(|repo| async move { repo.holds(&path).await }) {
            Err(Error::Remote {
                kind: RemoteErrorKind::Missing,
                ..
            }) => Ok(false),
            other => other,
        }
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        let changes = vec![(self.path(key)?, Some(bytes.to_vec()))];
        let absent = (how == Put::New).then_some(key);
        self.commit(&format!("Lyceum: {key}"), changes, absent)
    }

    fn stage(&self, key: &str, bytes: &[u8]) -> Result<()> {
        check_key(key)?;
        let full = {
            let mut staged = self.staged();
            staged.insert(key.to_owned(), bytes.into());
            staged.values().map(|bytes| bytes.len()).sum::<usize>() > STAGED
        };
        if full {
            let staged = std::mem::take(&mut *self.staged());
            let changes = self.lacking(&staged)?;
            if !changes.is_empty() {
                self.commit("Lyceum: objects", changes, None)?;
            }
        }
        Ok(())
    }

    fn create(&self, key: &str, bytes: &[u8], also: &[Change]) -> Result<()> {
        let staged = self.staged().clone();
        let mut changes = self.lacking(&staged)?;
        for (key, bytes) in also {
            changes.push((self.path(key)?, bytes.clone()));
        }
        changes.push((self.path(key)?, Some(bytes.to_vec())));
        self.commit(&format!("Lyceum: {key}"), changes, Some(key))?;
        self.staged().retain(|key, _| !staged.contains_key(key));
        Ok(())
    }

    fn atomic(&self) -> bool {
        true
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.delete_all(&[key.to_owned()])
    }

    fn delete_all(&self, keys: &[String]) -> Result<()> {
        for some in keys.chunks(DELETES_PER_COMMIT) {
            let paths = some.iter().map(|key| self.path(key));
            let paths = paths.collect::<Result<Vec<String>>>()?;
            let there = self.ask(|repo| async move { repo.info(&paths).await })?;
            let gone: Vec<Change> = there.into_iter().map(|file| (file.path, None)).collect();
            if !gone.is_empty() {
                let summary = format!("Lyceum: {} files deleted", gone.len());
                self.commit(&summary, gone, None)?;
            }
            some.iter().for_each(|key| {
                self.staged().remove(key);
            });
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let below = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let folder = match (self.folder.as_str(), below) {
            ("", below) => below.to_owned(),
            (own, "") => own.to_owned(),
            (own, below) => format!("{own}/{below}"),
        };
        let listed = match self.ask(|repo| async move { repo.tree(&folder).await }) {
            Err(
                Error::NotFound { .. }
                | Error::Remote {
                    kind: RemoteErrorKind::Missing,
                    ..
                },
            ) => Vec::new(),
            other => other?,
        };
        let own = match self.folder.is_empty() {
            true => String::new(),
            false => format!("{}/", self.folder),
        };
        let mut keys: Vec<String> = { listed.into_iter() }
            .filter(|file| file.kind == "file")
            .filter_map(|file| Some(file.path.strip_prefix(&own)?.to_owned()))
            // Hidden files are the repository's own.
            .filter(|key| key.starts_with(prefix) && check_key(key).is_ok())
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// One commit built on a parent that cannot be: a hub that takes it does not look.
    fn proves(&self) -> Result<bool> {
        self.head()?;
        let key = self.path(&format!("probe/{:016x}", entropy()))?;
        let changes = vec![(key, Some(b"probe".to_vec()))];
        let outcome = self.ask(|repo| async move {
            let nowhere = "0".repeat(40);
            repo.commit(Some(&nowhere), "Lyceum: probe", &changes).await
        });
        match outcome {
            Ok(Outcome::Stale) => Ok(true),
            Ok(Outcome::Done) => Err(Error::invalid(
                "this hub takes commits whose parent is wrong, so two writers could overwrite \
                 each other; Lyceum only reads here",
            )),
            // Some hubs answer that there is no such parent.
            Err(Error::Remote {
                kind: RemoteErrorKind::Other | RemoteErrorKind::Missing,
                ..
            }) => Ok(true),
            Err(error @ Error::NotFound { .. }) => Err(remote_error::remote(
                &self.uri,
                RemoteErrorKind::Other,
                format!("this hub takes no commits ({error})"),
            )),
            Err(error) => Err(error),
        }
    }

    fn width(&self) -> usize {
        8
    }
}
