//! Stores: the operations on a library's bytes that every backend offers.

mod address;
#[cfg_attr(
    not(feature = "remote"),
    allow(dead_code, reason = "requests are of remote places alone")
)]
mod backoff;
#[cfg_attr(
    not(feature = "remote"),
    allow(
        dead_code,
        reason = "a build that fetches nothing only shows and clears it"
    )
)]
mod cache;
#[cfg(feature = "remote")]
mod cached;
#[cfg(feature = "remote")]
mod cloud;
mod fetch;
#[cfg(feature = "remote")]
mod hub;
mod local;
mod memory;
mod probe;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "remote")]
mod remote_error;
#[cfg(feature = "remote")]
mod runtime;
#[cfg_attr(
    not(feature = "remote"),
    allow(dead_code, reason = "credentials are read by remote places alone")
)]
mod session;
#[cfg(feature = "remote")]
mod traced;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use address::Address;
pub(crate) use backoff::Backoff;
pub use cache::{Cache, Usage};
pub(crate) use fetch::hub_at;
pub use fetch::{Wanted, fetched, fetched_with};
#[cfg(feature = "remote")]
pub use hub::Snapshot;
pub use local::Local;
pub use memory::Memory;
pub use probe::probe;
pub use session::Session;
#[cfg(feature = "remote")]
use traced::Traced;

use crate::error::{Error, Result};

/// The treatment of an existing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It must not.
    New,
    /// It may, and is replaced.
    Replace,
}

/// A key and its new bytes; `None` is gone.
pub type Change = (String, Option<Vec<u8>>);

/// Keys to bytes. A put is atomic: readers see the old bytes or the new, a killed put leaves the
/// old. Of several [`Put::New`] on one key exactly one succeeds, whoever makes them.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The address it was opened with.
    fn uri(&self) -> String;
    /// The bytes at `key`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such key.
    fn get(&self, key: &str) -> Result<Vec<u8>>;
    /// Returns `true` if the key exists.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn exists(&self, key: &str) -> Result<bool>;
    /// Puts `bytes` at `key`.
    ///
    /// # Errors
    /// [`Error::Exists`] for [`Put::New`] on an existing key.
    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()>;
    /// Removes `key`; it need not exist.
    ///
    /// # Errors
    /// When the place refuses.
    fn delete(&self, key: &str) -> Result<()>;
    /// Removes all of `keys`.
    ///
    /// # Errors
    /// When the place refuses.
    fn delete_all(&self, keys: &[String]) -> Result<()> {
        each(self.width(), keys, |key| self.delete(key)).map(|_| ())
    }
    /// Puts an object that is named by its content: at once, or at the latest with the next
    /// [`Store::create`] of this store. Until then others need not see it.
    ///
    /// # Errors
    /// [`Error::Exists`] when it is there already and that is known.
    fn stage(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(key, bytes, Put::New)
    }
    /// Creates `key` as [`Put::New`] does. Where several keys can change in one step `also`
    /// changes with it or not at all; elsewhere `also` is ignored.
    ///
    /// # Errors
    /// As [`Store::put`].
    fn create(&self, key: &str, bytes: &[u8], _also: &[Change]) -> Result<()> {
        self.put(key, bytes, Put::New)
    }
    /// Returns `true` if [`Store::create`] changes several keys atomically.
    fn atomic(&self) -> bool {
        false
    }
    /// Returns `true` if the backend can prove conditional creates without writing; otherwise
    /// callers probe it.
    ///
    /// # Errors
    /// When it shows that it does not.
    fn proves(&self) -> Result<bool> {
        Ok(false)
    }
    /// The place itself, where this store keeps copies of what was read there.
    fn origin(&self) -> Option<Arc<dyn Store>> {
        None
    }
    /// All keys that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;
    /// Returns once everything put before would survive a power cut.
    ///
    /// # Errors
    /// When the place cannot promise it.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    /// Deletes what stopped writers left half-written longer than `age` ago, where a place keeps
    /// such things.
    ///
    /// # Errors
    /// When the place refuses.
    fn sweep(&self, _age: Duration) -> Result<()> {
        Ok(())
    }
    /// Takes a lock that writers hold while they commit, where that is cheap, after waiting for a
    /// short while. Writers without it do no harm; they only repeat more.
    ///
    /// # Errors
    /// When the place refuses.
    fn advisory_lock(&self) -> Result<AdvisoryLock> {
        Ok(AdvisoryLock::default())
    }
    /// Useful number of concurrent requests.
    fn width(&self) -> usize {
        1
    }
    /// The folder whose files the keys are, if it is one.
    fn folder(&self) -> Option<&Path> {
        None
    }
}

/// A lock that writers heed to spare each other work, not for safety; released when dropped.
#[derive(Debug, Default)]
pub struct AdvisoryLock {
    /// The locked file; closing it releases the lock.
    _held: Option<std::fs::File>,
}

/// Refuses keys that could leave the store.
///
/// # Errors
/// [`Error::Invalid`] naming the key.
pub fn check_key(key: &str) -> Result<()> {
    let part =
        |p: &str| p.is_empty() || p == ".." || p.starts_with('.') || p.contains(['\\', '\0']);
    if key.split('/').any(part) {
        return Err(Error::invalid(format!("`{key}` is not a store key")));
    }
    Ok(())
}

/// Opens the store at `uri`; see [`Address`] for what it may be. Remote ones are read through the
/// user's cache.
///
/// # Errors
/// When the address is not one, or what is configured for it cannot be used.
pub fn open(uri: &str) -> Result<Arc<dyn Store>> {
    open_with(uri, &Session::from_env())
}

/// As [`open`], with the cache and the credentials of `session`.
///
/// # Errors
/// As [`open`].
pub fn open_with(uri: &str, session: &Session) -> Result<Arc<dyn Store>> {
    match Address::parse(uri)? {
        Address::Local(path) => Ok(Arc::new(Local::new(path))),
        Address::Memory(name) => Ok(Memory::named(&name)),
        other => far(&other, session),
    }
}

#[cfg(feature = "remote")]
fn far(address: &Address, session: &Session) -> Result<Arc<dyn Store>> {
    let (store, offline): (Arc<dyn Store>, bool) = match hub::Hub::open(address, session)? {
        Some(hub) => (Arc::new(Traced(hub)), hub::offline(session)),
        None => match cloud::open(address, session)? {
            Some(bucket) => (Arc::new(Traced(bucket)), session.offline()),
            None => return Err(Error::invalid(format!("{address} is no remote place"))),
        },
    };
    match session.cache().cloned() {
        Some(cache) => Ok(Arc::new(cached::Cached::new(store, cache, offline))),
        None if offline => Err(remote_error::offline(&address.to_string(), "it")),
        None => Ok(store),
    }
}

#[cfg(not(feature = "remote"))]
fn far(address: &Address, _: &Session) -> Result<Arc<dyn Store>> {
    Err(without(address))
}

/// The error of a build without the feature.
#[cfg(not(feature = "remote"))]
pub(crate) fn without(address: &Address) -> Error {
    crate::feature::missing(address, "reads no remote place", "remote")
}

/// `work` on every item, up to `width` at once; results in the items' order. After an error no
/// new work is begun, and the first item's error is returned.
pub(crate) fn each<T: Sync, R: Send>(
    width: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let threads = width.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= items.len() || failed.load(Ordering::Relaxed) < at {
                        break;
                    }
                    let result = work(&items[at]);
                    if result.is_err() {
                        failed.fetch_min(at, Ordering::Relaxed);
                    }
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(all(test, not(feature = "remote")))]
#[test]
fn a_build_without_remote_places_names_the_feature() {
    for uri in ["s3://b", "az://a/c", "gs://b", "hf://o/n"] {
        let error = open(uri).unwrap_err().to_string();
        assert!(
            error.starts_with(uri) && error.contains("feature `remote`"),
            "{error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laws(store: &dyn Store) {
        assert!(matches!(store.get("a/b"), Err(Error::NotFound { .. })));
        assert!(!store.exists("a/b").unwrap());
        store.put("a/b", b"1", Put::New).unwrap();
        store.put("a/é", b"2", Put::New).unwrap();
        store.put("c", b"", Put::Replace).unwrap();
        assert_eq!(store.get("a/b").unwrap(), b"1");
        assert!(store.exists("a/b").unwrap() && !store.exists("a").unwrap());
        assert!(matches!(
            store.put("a/b", b"3", Put::New),
            Err(Error::Exists { .. })
        ));
        assert_eq!(store.get("a/b").unwrap(), b"1");
        store.put("a/b", b"3", Put::Replace).unwrap();
        assert_eq!(store.get("a/b").unwrap(), b"3");
        store.flush().unwrap();
        assert_eq!(store.list("").unwrap(), ["a/b", "a/é", "c"]);
        assert_eq!(store.list("a/").unwrap(), ["a/b", "a/é"]);
        assert_eq!(store.list("a/é").unwrap(), ["a/é"]);
        assert!(store.list("none/").unwrap().is_empty());
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.list("").unwrap(), ["a/é", "c"]);
        for bad in ["", "/a", "../a", "a/../b", "a//b", ".hidden", "a\\b"] {
            assert!(store.put(bad, b"x", Put::New).is_err(), "{bad}");
            assert!(store.get(bad).is_err(), "{bad}");
        }
        let winners = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..16u8 {
                let winners = &winners;
                scope.spawn(move || match store.put("race", &[n], Put::New) {
                    Ok(()) => winners.lock().unwrap().push(n),
                    Err(Error::Exists { .. }) => {}
                    Err(error) => panic!("{error}"),
                });
            }
        });
        let winners = winners.into_inner().unwrap();
        assert_eq!(winners, store.get("race").unwrap());
        probe(store).unwrap();
        assert!(store.list("probe/").unwrap().is_empty());
    }

    #[test]
    fn every_store_obeys_the_laws() {
        let dir = tempfile::tempdir().unwrap();
        laws(&Local::new(dir.path().to_str().unwrap()));
        laws(&*Memory::private("laws"));
    }

    #[test]
    fn a_place_that_cannot_be_written_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = Local::new(file.path().join("below").to_str().unwrap());
        assert!(matches!(
            store.put("a", b"1", Put::New),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn what_a_killed_write_leaves_is_not_listed_and_goes_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("objects/0");
        std::fs::create_dir_all(&below).unwrap();
        let (old, new) = (below.join(".tmp-old"), below.join(".tmp-new"));
        for path in [&old, &new] {
            std::fs::write(path, b"ha").unwrap();
        }
        let ago = std::time::SystemTime::now() - Duration::from_secs(1000);
        let file = std::fs::File::options().write(true).open(&old).unwrap();
        file.set_modified(ago).unwrap();
        let store = Local::new(dir.path().to_str().unwrap());
        assert!(store.list("").unwrap().is_empty());
        store.sweep(Duration::from_secs(500)).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn work_on_many_keeps_order_and_the_first_error() {
        let items: Vec<usize> = (0..500).collect();
        let doubled = each(8, &items, |n| Ok(2 * n)).unwrap();
        assert_eq!(doubled, items.iter().map(|n| 2 * n).collect::<Vec<_>>());
        let error = each(8, &items, |n| match n % 100 {
            99 => Err(Error::invalid(n.to_string())),
            _ => Ok(()),
        });
        assert_eq!(error.unwrap_err().to_string(), "99");
    }
}
