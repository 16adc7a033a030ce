//! A remote store whose requests are `tracing` events: method, key, bytes, status and time, and
//! nothing of what was sent with them.

use std::sync::Arc;
use std::time::Instant;

use super::{Change, Put, Store};
use crate::error::Result;

/// Reports the requests to `S`.
#[derive(Debug)]
pub(super) struct Traced<S>(pub(super) S);

impl<S: Store> Traced<S> {
    /// Makes a request about `key`; `size` is the number of bytes sent, or of those that came.
    fn request<T>(
        &self,
        method: &'static str,
        key: &str,
        size: impl FnOnce(&T) -> usize,
        work: impl FnOnce(&S) -> Result<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        let result = work(&self.0);
        let status = match &result {
            Ok(_) => "Ok".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        tracing::debug!(
            method,
            place = self.uri(),
            key,
            bytes = result.as_ref().map_or(0, size),
            status,
            elapsed_ms = begun.elapsed().as_secs_f64() * 1e3,
            "store request"
        );
        result
    }
}

impl<S: Store> Store for Traced<S> {
    fn uri(&self) -> String {
        self.0.uri()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.request("GET", key, Vec::len, |store| store.get(key))
    }

    fn exists(&self, key: &str) -> Result<bool> {
        self.request("HEAD", key, |_| 0, |store| store.exists(key))
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        let sent = |_: &()| bytes.len();
        self.request("PUT", key, sent, |store| store.put(key, bytes, how))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.request("DELETE", key, |_| 0, |store| store.delete(key))
    }

    fn delete_all(&self, keys: &[String]) -> Result<()> {
        let key = keys.first().map_or("", String::as_str);
        self.request("DELETE", key, |_| 0, |store| store.delete_all(keys))
    }

    fn stage(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let sent = |_: &()| bytes.len();
        self.request("PUT", key, sent, |store| store.stage(key, bytes))
    }

    fn create(&self, key: &str, bytes: &[u8], also: &[Change]) -> Result<()> {
        let sent = |_: &()| bytes.len();
        self.request("PUT", key, sent, |store| store.create(key, bytes, also))
    }

    fn atomic(&self) -> bool {
        self.0.atomic()
    }

    fn proves(&self) -> Result<bool> {
        self.0.proves()
    }

    fn origin(&self) -> Option<Arc<dyn Store>> {
        self.0.origin()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.request("LIST", prefix, |_| 0, |store| store.list(prefix))
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn sweep(&self, age: std::time::Duration) -> Result<()> {
        self.0.sweep(age)
    }

    fn advisory_lock(&self) -> Result<super::AdvisoryLock> {
        self.0.advisory_lock()
    }

    fn width(&self) -> usize {
        self.0.width()
    }

    fn folder(&self) -> Option<&std::path::Path> {
        self.0.folder()
    }
}
