//! Does a place keep its promises?
//!
//! Everything rests on one promise: of several creates of one key exactly one succeeds. Some
//! stores accept the condition and ignore it; on those two writers would overwrite each other, so
//! they are refused before the first write.

use super::{Put, Store, each};
use crate::error::{Error, Result};
use crate::rng::unique_id;

/// Tries whether `store` creates only what is absent, also when asked by several at once.
///
/// # Errors
/// [`Error::Invalid`] with the reason when it does not; what the store says when it cannot be
/// written at all.
pub fn probe(store: &dyn Store) -> Result<()> {
    if store.proves()? {
        return Ok(());
    }
    let key = format!("probe/{}", unique_id());
    let result = tried(store, &key);
    let gone = store.delete(&key);
    result.and(gone)
}

fn tried(store: &dyn Store, key: &str) -> Result<()> {
    let writers: Vec<u8> = (0..4).collect();
    let won = each(writers.len(), &writers, |writer| {
        match store.put(key, &[*writer], Put::New) {
            Ok(()) => Ok(Some(*writer)),
            Err(Error::Exists { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    let mut won: Vec<u8> = won.into_iter().flatten().collect();
    let lies = |how: &str| {
        Error::invalid(format!(
            "this store {how}, so two writers could overwrite each other; Lyceum only reads here"
        ))
    };
    if won.is_empty() {
        // The winner's answer may have been lost; then its bytes are there.
        let kept = store.get(key).ok();
        let kept = kept.filter(|kept| writers.iter().any(|writer| kept == &[*writer]));
        won.extend(kept.unwrap_or_default());
    }
    if won.len() != 1 {
        let how = format!(
            "let {} of {} writers create the same key",
            won.len(),
            writers.len()
        );
        return Err(lies(&how));
    }
    match store.put(key, b"late", Put::New) {
        Err(Error::Exists { .. }) => {}
        Ok(()) => return Err(lies("creates keys that exist already")),
        Err(error) => return Err(error),
    }
    if store.get(key)? != won {
        return Err(lies("does not return what was written first"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;
    use std::sync::Arc;

    /// Accepts the condition and ignores it, as some S3 servers do.
    #[derive(Debug)]
    struct Liar(Arc<Memory>);

    impl Store for Liar {
        fn uri(&self) -> String {
            self.0.uri()
        }
        fn get(&self, key: &str) -> Result<Vec<u8>> {
            self.0.get(key)
        }
        fn exists(&self, key: &str) -> Result<bool> {
            self.0.exists(key)
        }
        fn put(&self, key: &str, bytes: &[u8], _: Put) -> Result<()> {
            self.0.put(key, bytes, Put::Replace)
        }
        fn delete(&self, key: &str) -> Result<()> {
            self.0.delete(key)
        }
        fn list(&self, prefix: &str) -> Result<Vec<String>> {
            self.0.list(prefix)
        }
    }

    #[test]
    fn a_store_that_ignores_the_condition_is_found_out() {
        let store = Liar(Memory::private("liar"));
        let error = probe(&store).unwrap_err().to_string();
        assert!(error.contains("4 of 4 writers"), "{error}");
        assert!(store.list("").unwrap().is_empty());
        probe(&*store.0).unwrap();
    }
}
