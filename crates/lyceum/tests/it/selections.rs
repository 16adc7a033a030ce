//! Routing over a selection of a library reads that selection, once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lyceum::expert::Expert;
use lyceum::library::{Library, Members};
use lyceum::lora::LoraConfig;
use lyceum::mix::Mixing;
use lyceum::route::Router;
use lyceum::store::{Memory, Put, Store};
use lyceum::{Error, Result};

use crate::golden;
use crate::made;

/// Counts what is read, by key.
#[derive(Debug)]
struct Counted {
    store: Arc<Memory>,
    reads: Mutex<BTreeMap<String, usize>>,
}

impl Store for Counted {
    fn uri(&self) -> String {
        self.store.uri()
    }
    fn get(&self, key: &str) -> Result<Vec<u8>> {
        *self
            .reads
            .lock()
            .unwrap()
            .entry(key.to_owned())
            .or_default() += 1;
        self.store.get(key)
    }
    fn exists(&self, key: &str) -> Result<bool> {
        self.store.exists(key)
    }
    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        self.store.put(key, bytes, how)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.list(prefix)
    }
}

/// A counted library of five experts `a1`, `a2`, `b3`, `b4`, `b5` of the tasks `t1` to `t5`, and a
/// merged one, `all`, of them all.
fn library() -> Arc<Counted> {
    let mut experts: Vec<Expert> = { ["a1", "a2", "b3", "b4", "b5"].iter().zip(1..) }
        .map(|(name, seed)| made::expert(name, seed, LoraConfig::default()))
        .collect();
    let mut merged = made::expert("all", 6, LoraConfig::default());
    merged.card.origin = serde_json::json!({ "merge": { "merge": "cat" } });
    merged.card.tasks = experts.iter().flat_map(|e| e.card.tasks.clone()).collect();
    experts.push(merged);
    let store = Arc::new(Counted {
        store: Memory::private("selections"),
        reads: Mutex::default(),
    });
    let marker = b"{\"format\":2}";
    store.put("library.json", marker, Put::New).unwrap();
    let to = Library::over(store.clone(), false).unwrap();
    let from = made::library(&experts);
    from.members(&Members::All).unwrap().copy_to(&to).unwrap();
    store
}

fn names(library: &Library) -> Vec<String> {
    let names = library.names().unwrap();
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_router_reads_only_its_selection_and_each_thing_once() {
    let store = library();
    let entries = Library::over(store.clone(), false)
        .unwrap()
        .entries()
        .unwrap();
    let named = Members::Named(vec![golden::name("b4"), golden::name("a2")]);
    let tasks = Members::Tasks(vec![golden::name("t2"), golden::name("t4")]);
    for (members, chosen) in [
        (named, &["a2", "b4"][..]),
        (Members::globs(["a*", "?4"]), &["a1", "a2", "all", "b4"]),
        (Members::globs(["b[35]"]), &["b3", "b5"]),
        (tasks, &["a2", "b4"]),
        (Members::Trained, &["a1", "a2", "b3", "b4", "b5"]),
        (Members::All, &["a1", "a2", "all", "b3", "b4", "b5"]),
    ] {
        for router in [Router::uniform(), Router::arrow().top_k(2)] {
            store.reads.lock().unwrap().clear();
            let library = Library::over(store.clone(), false).unwrap();
            let library = library.members(&members).unwrap();
            let mixture = router.mixture(&library, &golden::base().host(), Mixing::Outputs);
            let bank = mixture.unwrap().unwrap().bank;
            assert_eq!(names(&library), chosen);
            assert!(
                bank.names()
                    .iter()
                    .map(|name| name.as_str())
                    .eq(chosen.iter().copied())
            );
            let reads = store.reads.lock().unwrap().clone();
            assert!(reads.values().all(|n| *n == 1), "{members:?}: {reads:?}");
            let times = |sha: &str| -> usize {
                let own = reads.iter().filter(|(key, _)| key.contains(sha));
                own.map(|(_, n)| n).sum()
            };
            for (name, entry) in &entries {
                let own = usize::from(chosen.contains(&name.as_str()));
                let weights = entry.files["adapter_model.safetensors"].sha256();
                assert_eq!(times(weights), own, "{members:?}: {name}");
                let artifact = |kind| {
                    entry.artifacts[&golden::name(kind)]
                        .file
                        .sha256()
                        .to_owned()
                };
                let routed = own * usize::from(router.about().artifact.is_some());
                assert_eq!(times(&artifact("arrow")), routed, "{members:?}: {name}");
                assert_eq!(times(&artifact("phatgoose")), 0, "{members:?}: {name}");
                // To tell merged experts from others, all cards in question are read, once.
                let card = times(entry.files["card.json"].sha256());
                assert!(
                    card == own || card == 1 && name.as_str() == "all",
                    "{members:?}: {name}"
                );
            }
        }
    }
}

#[test]
fn selections_that_find_nothing_say_so() {
    let library = Library::over(library(), false).unwrap();
    for members in [
        Members::globs(["a1", "c*"]),
        Members::Tasks(vec![golden::name("t1"), golden::name("t9")]),
        Members::Named(vec![golden::name("c")]),
    ] {
        let error = library.members(&members).unwrap_err();
        assert!(
            matches!(error, Error::NotFound { .. }),
            "{members:?}: {error}"
        );
    }
    let error = library.members(&Members::globs(["a["])).unwrap_err();
    assert!(error.to_string().contains("`a[` is no pattern"), "{error}");
    // A selection of a selection.
    let some = library.members(&Members::globs(["a?", "b3"])).unwrap();
    assert_eq!(
        names(&some.members(&Members::globs(["*3"])).unwrap()),
        ["b3"]
    );
    assert!(some.members(&Members::globs(["b4"])).is_err());
}
