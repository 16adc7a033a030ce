//! A remote store with what was fetched from it kept on this machine.

use std::sync::Arc;

use super::remote_error;
use super::{Cache, Change, Put, Store};
use crate::digest::sha256;
use crate::error::{Error, Result};

/// Objects, which are named by their hash, come from the cache and go there; the rest is asked of
/// the place each time, and remembered for when there is no network.
#[derive(Debug)]
pub(super) struct Cached {
    store: Arc<dyn Store>,
    cache: Cache,
    offline: bool,
}

/// The SHA-256 that `key` is named by, if it is one of an object.
fn named(key: &str) -> Option<&str> {
    let sha = key.strip_prefix("objects/")?.rsplit('/').next()?;
    (sha.len() == 64 && sha.bytes().all(|b| b.is_ascii_hexdigit())).then_some(sha)
}

impl Cached {
    pub(super) fn new(store: Arc<dyn Store>, cache: Cache, offline: bool) -> Self {
        Cached {
            store,
            cache,
            offline,
        }
    }

    fn online(&self) -> Result<()> {
        match self.offline {
            true => Err(remote_error::remote(
                &self.store.uri(),
                crate::error::RemoteErrorKind::Offline,
                "it can only be read while offline",
            )),
            false => Ok(()),
        }
    }

    fn object(&self, key: &str, sha: &str) -> Result<Vec<u8>> {
        if let Some(bytes) = self.cache.get(sha) {
            tracing::debug!(key, bytes = bytes.len(), "cache hit");
            return Ok(bytes);
        }
        tracing::debug!(key, "cache miss");
        if self.offline {
            return Err(remote_error::offline(
                &self.store.uri(),
                &format!("`{key}`"),
            ));
        }
        let right = |bytes: &Vec<u8>| sha256(bytes) == sha;
        let mut bytes = self.store.get(key)?;
        if !right(&bytes) {
            // Perhaps only this download was damaged.
            bytes = self.store.get(key)?;
        }
        // What is damaged over there is told by whoever knows what it should be; it is not kept.
        if right(&bytes) {
            // Without a copy it is only slower.
            let _ = self.cache.put(sha, &bytes);
        }
        Ok(bytes)
    }
}

impl Store for Cached {
    fn uri(&self) -> String {
        self.store.uri()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        super::check_key(key)?;
        if let Some(sha) = named(key) {
            return self.object(key, sha);
        }
        let uri = self.store.uri();
        if self.offline {
            let known = self.cache.recall(&uri, key);
            let seen = self.cache.recall(&uri, "library.json").is_some();
            return known.ok_or_else(|| match seen {
                true => Error::not_found("file", key, []),
                false => remote_error::offline(&uri, "this library"),
            });
        }
        let bytes = self.store.get(key)?;
        let _ = self.cache.remember(&uri, key, &bytes);
        Ok(bytes)
    }

    fn exists(&self, key: &str) -> Result<bool> {
        match self.offline {
            true => match self.get(key) {
                Ok(_) => Ok(true),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            false => self.store.exists(key),
        }
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        self.online()?;
        self.store.put(key, bytes, how)
    }

    fn stage(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.online()?;
        self.store.stage(key, bytes)
    }

    fn create(&self, key: &str, bytes: &[u8], also: &[Change]) -> Result<()> {
        self.online()?;
        self.store.create(key, bytes, also)
    }

    fn atomic(&self) -> bool {
        self.store.atomic()
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.online()?;
        self.store.delete(key)
    }

    fn delete_all(&self, keys: &[String]) -> Result<()> {
        self.online()?;
        self.store.delete_all(keys)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        match self.offline {
            true => Err(remote_error::offline(
                &self.store.uri(),
                "the list of its files",
            )),
            false => self.store.list(prefix),
        }
    }

    fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    fn proves(&self) -> Result<bool> {
        self.online()?;
        self.store.proves()
    }

    fn width(&self) -> usize {
        self.store.width()
    }

    fn origin(&self) -> Option<Arc<dyn Store>> {
        (!self.offline).then(|| self.store.clone())
    }
}
