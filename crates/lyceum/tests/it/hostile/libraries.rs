//! Libraries that others wrote, with every hash right for what was put in.

use std::collections::BTreeMap;
use std::time::Duration;

use lyceum::Name;
use lyceum::artifact::Artifact;
use lyceum::library::Library;
use lyceum::rng::Rng;
use lyceum::store::{Memory, Put, Store};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{mutate, rounds};
use crate::library::expert;

type Keys = BTreeMap<String, Vec<u8>>;

const MARKER: &str = "library.json";

/// A library of three experts and an artifact, as its keys.
fn keys() -> Keys {
    let store = Memory::private("seed");
    store.put(MARKER, b"{\"format\":2}\n", Put::New).unwrap();
    let library = Library::over(store.clone(), false).unwrap();
    let mut batch = library.batch().unwrap();
    for n in 0..3 {
        batch.add(&expert(&format!("e{n}"), n), Put::New).unwrap();
    }
    batch.commit().unwrap();
    let one = library.expert(&Name::new("e0").unwrap()).unwrap();
    let artifact = Artifact {
        kind: Name::new("arrow").unwrap(),
        spec: Value::Null,
        expert: one.card.name.clone(),
        made_from: one.fingerprint().to_owned(),
        vectors: { one.loras.iter() }
            .map(|(site, lora)| (site.clone(), lora.a.get(0).unwrap()))
            .collect(),
    };
    library.put_artifact(&artifact).unwrap();
    library.remove(&Name::new("e2").unwrap()).unwrap();
    let keys = store.list("").unwrap();
    keys.into_iter()
        .map(|key| {
            let bytes = store.get(&key).unwrap();
            (key, bytes)
        })
        .collect()
}

/// The key of the object called `blob`, `epoch:size:sha256`.
fn key(blob: &str) -> String {
    let parts: Vec<&str> = blob.split(':').collect();
    format!("objects/{}/{}/{}", parts[0], &parts[2][..2], parts[2])
}

/// Keeps `bytes` as an object; what it is called.
fn keep(keys: &mut Keys, bytes: Vec<u8>) -> String {
    let hash = Sha256::digest(&bytes);
    let sha: String = { hash.iter() }.map(|byte| format!("{byte:02x}")).collect();
    let blob = format!("0:{}:{sha}", bytes.len());
    keys.insert(key(&blob), bytes);
    blob
}

/// `bytes` with one name for another.
fn renamed(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    String::from_utf8_lossy(bytes)
        .replace(old, new)
        .into_bytes()
}

/// Every object's name that stands in `bytes`.
fn named(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let blob = |word: &&str| word.len() > 64 && word.split(':').count() == 3;
    text.split('"')
        .filter(blob)
        .map(ToOwned::to_owned)
        .collect()
}

/// Changes one thing, and every name above it.
fn forge(rng: &mut Rng, seed: &Keys) -> Keys {
    let mut keys = seed.clone();
    let manifest = "versions/00000000000000000003.json";
    let root = named(&keys[manifest]).remove(0);
    let shard = named(&keys[&key(&root)]).remove(0);
    let files = named(&keys[&key(&shard)]);
    // From the manifest down to what is changed.
    let file = files[rng.below(files.len())].clone();
    let chain = [root, shard, file];
    let depth = match rng.below(8) {
        0 => {
            let small = [MARKER, "versions/latest"][rng.below(2)].to_owned();
            let bytes = mutate(rng, &keys[&small]);
            keys.insert(small, bytes);
            return keys;
        }
        1 => {
            let bytes = mutate(rng, &keys[manifest]);
            keys.insert(manifest.to_owned(), bytes);
            return keys;
        }
        2 | 3 => 0,
        4 | 5 => 1,
        _ => 2,
    };
    let mut bytes = mutate(rng, &keys[&key(&chain[depth])]);
    for at in (0..=depth).rev() {
        let new = keep(&mut keys, bytes);
        let above = match at {
            0 => manifest.to_owned(),
            at => key(&chain[at - 1]),
        };
        bytes = renamed(&keys[&above], &chain[at], &new);
    }
    keys.insert(manifest.to_owned(), bytes);
    keys
}

#[test]
fn fuzz_libraries() {
    let mut rng = Rng::new(11);
    let seed = keys();
    let used = |keys: &Keys| {
        let store = Memory::private("forged");
        for (key, bytes) in keys {
            store.put(key, bytes, Put::New).unwrap();
        }
        let library = Library::over(store, false)?;
        let _ = library.history(10);
        let _ = library.check();
        let _ = library.experts();
        let _ = library.artifact(&Name::new("arrow")?, None);
        let _ = library.restore(&Name::new("e2")?);
        library.add(&expert("new", 1), Put::New)?;
        library.purge(Duration::ZERO, false)?;
        Ok::<_, lyceum::Error>(library.experts()?.len())
    };
    assert_eq!(used(&seed).unwrap(), 4);
    let mut fine = 0;
    let all = rounds(300);
    for _ in 0..all {
        fine += usize::from(used(&forge(&mut rng, &seed)).is_ok());
    }
    // Changes are read, and mostly found.
    assert!(fine < all / 2, "{fine} of {all} passed for whole");
}

/// A library that names a file outside, copied to a folder.
#[test]
fn file_names_cannot_leave_the_library() {
    let seed = keys();
    let manifest = "versions/00000000000000000003.json";
    let place = tempfile::tempdir().unwrap();
    let escaped = place.path().join("escaped");
    let absolute = escaped.display().to_string();
    for (n, name) in [
        "../../../../escaped",
        &absolute,
        "adapter_model.bin",
        ".hidden",
    ]
    .iter()
    .enumerate()
    {
        let mut keys = seed.clone();
        let root = named(&keys[manifest]).remove(0);
        let shard = named(&keys[&key(&root)]).remove(0);
        let more = format!("\"{name}\":\"{shard}\",\"card.json\"");
        let bytes = renamed(&keys[&key(&shard)], "\"card.json\"", &more);
        let new = keep(&mut keys, bytes);
        let bytes = renamed(&keys[&key(&root)], &shard, &new);
        let new = keep(&mut keys, bytes);
        let bytes = renamed(&keys[manifest], &root, &new);
        keys.insert(manifest.to_owned(), bytes);
        let store = Memory::private("forged");
        for (key, bytes) in &keys {
            store.put(key, bytes, Put::New).unwrap();
        }
        let library = Library::over(store, true).unwrap();
        let to = place.path().join(format!("{n}/lib"));
        let to = Library::create(to.to_str().unwrap()).unwrap();
        let copied = library.copy_to(&to);
        assert!(!escaped.exists(), "{name} was written");
        let said = copied.unwrap_err().chain();
        assert!(said.contains(name), "{said}");
    }
}
