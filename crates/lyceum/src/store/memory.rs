//! This process's memory, by name; for tests and scratch work.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::{Put, Store, check_key};
use crate::error::{Error, Result};

/// Keys held in memory.
#[derive(Debug)]
pub struct Memory {
    uri: String,
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
}

static NAMED: LazyLock<Mutex<BTreeMap<String, Arc<Memory>>>> = LazyLock::new(Mutex::default);

impl Memory {
    /// The store called `name`, shared by the whole process.
    pub fn named(name: &str) -> Arc<Memory> {
        let mut all = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Memory::private(&format!("memory://{name}"));
        all.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// A store that only holders of this value reach; `uri` is what it calls itself.
    pub fn private(uri: &str) -> Arc<Memory> {
        Arc::new(Memory {
            uri: uri.to_owned(),
            keys: Mutex::default(),
        })
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // A panic elsewhere cannot leave a map half changed: every change is one call.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        check_key(key)?;
        let keys = self.keys();
        let found = keys.get(key).cloned();
        found.ok_or_else(|| Error::not_found("file", key, []))
    }

    fn exists(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        Ok(self.keys().contains_key(key))
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        check_key(key)?;
        let mut keys = self.keys();
        if how == Put::New && keys.contains_key(key) {
            return Err(Error::Exists {
                kind: "key",
                name: key.to_owned(),
            });
        }
        keys.insert(key.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.keys().remove(key);
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let keys = self.keys();
        let from = keys.range(prefix.to_owned()..).map(|(key, _)| key);
        Ok(from
            .take_while(|k| k.starts_with(prefix))
            .cloned()
            .collect())
    }
}
