mod making;
mod restore;

use super::making::MARKER;
use super::*;
use crate::artifact::Artifact;
use crate::error::Hint;
use crate::lora::{Lora, LoraConfig};
use crate::name::Site;
use crate::rng::Rng;
use crate::store::Store;
use candle_core::{Device, Tensor};

fn expert(name: &str, seed: u64) -> Expert {
    let mut rng = Rng::new(seed);
    let tensor = |rng: &mut Rng, n, m| {
        Tensor::from_vec(rng.normal(n * m, 1.0), (n, m), &Device::Cpu).unwrap()
    };
    let lora = Lora::new(tensor(&mut rng, 4, 6), tensor(&mut rng, 5, 4), 0.25).unwrap();
    let card = Card {
        name: Name::new(name).unwrap(),
        base: Some("b".into()),
        base_family: None,
        base_name: "base".into(),
        tasks: vec![Name::new(name).unwrap()],
        lora: LoraConfig::default(),
        origin: serde_json::json!({ "seed": seed }),
        losses: vec![0.1, 1.0 / 3.0],
        weights: String::new(),
    };
    Expert::new(card, BTreeMap::from([(Site::new("h.0.q_proj"), lora)])).unwrap()
}

fn artifact(expert: &Expert) -> Artifact {
    let ones = Tensor::ones(6, candle_core::DType::F32, &Device::Cpu).unwrap();
    Artifact {
        kind: Name::new("arrow").unwrap(),
        spec: serde_json::json!({}),
        expert: expert.card.name.clone(),
        made_from: expert.fingerprint().into(),
        vectors: BTreeMap::from([(Site::new("h.0.q_proj"), ones)]),
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names(library: &Library) -> Vec<String> {
    library
        .names()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn memory() -> (Library, Library) {
    let store = crate::store::Memory::private("memory");
    store.put(MARKER, b"{\"format\":2}", Put::New).unwrap();
    let open = || Library::over(store.clone(), false).unwrap();
    (open(), open())
}

fn fresh() -> (tempfile::TempDir, Library) {
    let dir = tempfile::tempdir().unwrap();
    let library = Library::create(dir.path().join("lib").to_str().unwrap()).unwrap();
    (dir, library)
}

#[test]
fn experts_come_back_bit_equal_and_in_order() {
    let (_dir, library) = fresh();
    for (i, name) in ["b", "a"].into_iter().enumerate() {
        library.add(&expert(name, i as u64), Put::New).unwrap();
    }
    let all = library.experts().unwrap();
    assert_eq!(all[0].card, expert("a", 1).card);
    let values = |e: &Expert| e.loras["h.0.q_proj"].a.to_vec2::<f32>().unwrap();
    assert_eq!(values(&all[1]), values(&expert("b", 0)));
    library.add(&expert("b", 0), Put::New).unwrap();
    assert!(matches!(
        library.add(&expert("b", 9), Put::New),
        Err(Error::Exists { .. })
    ));
    library.add(&expert("b", 9), Put::Replace).unwrap();
    let error = library.expert(&Name::new("bb").unwrap()).unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
}

#[test]
fn a_changed_object_is_refused_and_found_by_a_check() {
    let (dir, library) = fresh();
    library.add(&expert("a", 1), Put::New).unwrap();
    library.add(&expert("b", 2), Put::New).unwrap();
    assert_eq!(library.check().unwrap().problems, []);
    let blob = library.entry(&name("a")).unwrap().files[peft::WEIGHTS].clone();
    let path = dir.path().join("lib").join(blob.key());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    crate::file::write(&path, &bytes).unwrap();
    let error = library.experts().unwrap_err();
    assert!(error.chain().contains("damaged"), "{}", error.chain());
    assert!(error.to_string().contains("expert `a`"), "{error}");
    let problems = library.check().unwrap().problems;
    assert!(!problems.is_empty() && problems.iter().all(|p| p.expert == name("a")));
    std::fs::remove_file(&path).unwrap();
    assert!(!library.check().unwrap().problems.is_empty());
}

#[test]
fn a_missing_or_stale_artifact_hints_at_deriving_it() {
    let (_dir, library) = fresh();
    let arrow = Name::new("arrow").unwrap();
    library.add(&expert("a", 1), Put::New).unwrap();
    let error = library.artifact(&arrow, None).unwrap_err();
    assert!(error.to_string().contains("has no arrow"), "{error}");
    let derive = Hint::Derive {
        library: library.uri().to_string(),
        kind: "arrow".into(),
    };
    assert_eq!(error.hints(), [derive]);
    library.put_artifact(&artifact(&expert("a", 1))).unwrap();
    assert_eq!(library.artifact(&arrow, None).unwrap().len(), 1);
    library.add(&expert("a", 2), Put::Replace).unwrap();
    let error = library.artifact(&arrow, None).unwrap_err().to_string();
    assert!(error.contains("has changed"), "{error}");
}

#[test]
fn copies_carry_artifacts_and_repeat() {
    let (_dir, library) = fresh();
    library.add(&expert("a", 1), Put::New).unwrap();
    library.put_artifact(&artifact(&expert("a", 1))).unwrap();
    let to = Library::create("memory://copies").unwrap();
    assert_eq!(library.copy_to(&to).unwrap(), 1);
    assert_eq!(library.copy_to(&to).unwrap(), 0);
    assert_eq!(to.fingerprint().unwrap(), library.fingerprint().unwrap());
    assert_eq!(
        to.artifact(&Name::new("arrow").unwrap(), None)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn readers_stay_on_their_version_and_old_ones_open() {
    let (writer, reader) = memory();
    assert_eq!((reader.version(), names(&reader).len()), (0, 0));
    writer.add(&expert("a", 1), Put::New).unwrap();
    writer.add(&expert("a", 2), Put::Replace).unwrap();
    writer.remove(&name("a")).unwrap();
    writer.add(&expert("b", 3), Put::New).unwrap();
    assert_eq!((writer.version(), reader.version()), (4, 0));
    assert!(reader.names().unwrap().is_empty());
    assert_eq!(reader.refresh().unwrap(), 4);
    assert_eq!(names(&reader), ["b"]);
    for (version, seed) in [(1, 1), (2, 2)] {
        let old = writer.at(version).unwrap();
        let found = old.expert(&name("a")).unwrap();
        assert_eq!(found.card, expert("a", seed).card);
        assert!(old.add(&expert("c", 1), Put::New).is_err());
    }
    assert!(matches!(writer.at(5), Err(Error::NotFound { .. })));
    let history = writer.history(9).unwrap();
    let told: Vec<String> = { history.iter() }
        .map(|m| m.changes[0].to_string())
        .collect();
    assert_eq!(told, ["added b", "removed a", "replaced a", "added a"]);
    let experts: Vec<u64> = history.iter().map(|m| m.experts).collect();
    assert_eq!(experts, [1, 0, 1, 1]);
}

#[test]
fn writers_merge_what_is_disjoint_and_are_told_of_the_rest() {
    let (one, two) = memory();
    one.add(&expert("a", 1), Put::New).unwrap();
    two.add(&expert("b", 1), Put::New).unwrap();
    assert_eq!(names(&two), ["a", "b"]);
    // The same job run twice: nothing changes.
    let version = two.version();
    two.add(&expert("a", 1), Put::New).unwrap();
    one.add(&expert("b", 1), Put::Replace).unwrap();
    assert_eq!((one.version(), two.version()), (version, version));
    // Another writer's expert is not replaced by one who never saw it.
    one.add(&expert("c", 1), Put::New).unwrap();
    for how in [Put::New, Put::Replace] {
        let error = two.add(&expert("c", 2), how).unwrap_err();
        assert!(matches!(error, Error::Conflict(_)), "{error}");
    }
    two.refresh().unwrap();
    two.add(&expert("c", 2), Put::Replace).unwrap();
    // Nor is one that changed removed or renamed unseen.
    let error = one.remove(&name("c")).unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    let error = one.rename(&name("c"), &name("d")).unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(two.card(&name("c")).unwrap(), expert("c", 2).card);
    // An artifact and a change of the expert do not collide; the artifact is stale then.
    one.refresh().unwrap();
    one.put_artifact(&artifact(&expert("b", 1))).unwrap();
    two.add(&expert("b", 7), Put::Replace).unwrap();
    assert!(!two.is_derived(&name("arrow"), &name("b")).unwrap());
    assert!(
        two.entry(&name("b"))
            .unwrap()
            .artifacts
            .contains_key("arrow")
    );
}

#[test]
fn a_batch_is_one_version_or_none() {
    let (one, two) = memory();
    let mut batch = one.batch().unwrap();
    for n in 0..5u64 {
        batch.add(&expert(&format!("e{n}"), n), Put::New).unwrap();
        batch
            .put_artifact(&artifact(&expert(&format!("e{n}"), n)))
            .unwrap();
    }
    assert_eq!(two.refresh().unwrap(), 0);
    assert_eq!(batch.commit().unwrap(), 1);
    assert_eq!(one.artifact(&name("arrow"), None).unwrap().len(), 5);
    let mut batch = two.batch().unwrap();
    two.refresh().unwrap();
    batch.add(&expert("new", 1), Put::New).unwrap();
    batch.add(&expert("e0", 9), Put::Replace).unwrap();
    assert!(matches!(batch.commit(), Err(Error::Conflict(_))));
    assert_eq!(one.refresh().unwrap(), 1);
    assert!(one.names().unwrap().iter().all(|n| n.as_str() != "new"));
}

#[test]
fn local_experts_are_peft_folders_that_follow_every_change() {
    let (dir, library) = fresh();
    let at = |name: &str| dir.path().join("lib/experts").join(name);
    let read = |name: &str| {
        let files = |file: &str| {
            let path = at(name).join(file);
            std::fs::read(&path).map_err(|e| Error::io(path, e))
        };
        peft::decode(name, files).map(|expert| expert.card)
    };
    library.add(&expert("a", 1), Put::New).unwrap();
    assert_eq!(read("a").unwrap(), expert("a", 1).card);
    library.add(&expert("a", 2), Put::Replace).unwrap();
    assert_eq!(read("a").unwrap(), expert("a", 2).card);
    library.rename(&name("a"), &name("b")).unwrap();
    assert!(!at("a").exists());
    assert_eq!(read("b").unwrap().weights, expert("a", 2).card.weights);
    library.remove(&name("b")).unwrap();
    assert!(!at("b").exists());
    library.restore(&name("b")).unwrap();
    assert!(read("b").is_ok());
    // What a stopped writer left undone is done by the next; what a user put there is kept.
    std::fs::write(at(".version"), b"4").unwrap();
    std::fs::remove_dir_all(at("b")).unwrap();
    std::fs::create_dir(at("c")).unwrap();
    std::fs::write(at("c").join("notes"), b"mine").unwrap();
    library.add(&expert("c", 3), Put::New).unwrap();
    assert!(read("b").is_ok() && read("c").is_ok());
    let kept = std::fs::read_dir(at(""))
        .unwrap()
        .any(|entry| entry.unwrap().path().join("c/notes").exists());
    assert!(kept);
    let before = std::fs::metadata(at("c")).unwrap().modified().unwrap();
    library.put_artifact(&artifact(&expert("c", 3))).unwrap();
    assert_eq!(
        std::fs::metadata(at("c")).unwrap().modified().unwrap(),
        before
    );
}

#[test]
fn a_copy_goes_on_where_it_was_and_replaces_only_when_told() {
    let (from, to) = (memory().0, memory().0);
    let mut batch = from.batch().unwrap();
    for n in 0..150u64 {
        batch.add(&expert(&format!("e{n}"), n), Put::New).unwrap();
    }
    batch.commit().unwrap();
    to.add(&expert("e7", 7), Put::New).unwrap();
    let mut heard = Vec::new();
    let copied = from
        .copy(&to, None, Put::New, |n, all| heard.push((n, all)))
        .unwrap();
    assert_eq!((copied.experts, copied.already), (149, 1));
    assert_eq!((heard[0], heard[heard.len() - 1]), ((1, 150), (150, 150)));
    // A few versions, not one per expert.
    assert_eq!(to.version(), 4);
    from.add(&expert("e9", 99), Put::Replace).unwrap();
    assert!(from.copy_to(&to).is_err());
    let only = [name("e9")];
    let copied = from
        .copy(&to, Some(&only), Put::Replace, |_, _| {})
        .unwrap();
    assert_eq!((copied.experts, copied.already), (1, 0));
    assert_eq!(to.fingerprint().unwrap(), from.fingerprint().unwrap());
    let error = from
        .copy(&to, Some(&[name("e999")]), Put::New, |_, _| {})
        .unwrap_err();
    assert!(error.to_string().contains("e99"), "{error}");
}

#[test]
fn time_never_goes_back_along_the_versions() {
    let (library, other) = memory();
    library.add(&expert("a", 1), Put::New).unwrap();
    let store = &library.shared.objects.store;
    // A writer whose clock is a day ahead.
    let mut ahead = library.history(1).unwrap().remove(0);
    ahead.version = 2;
    ahead.time += 86_400;
    assert!(manifest::create(&**store, &ahead, Vec::new()).unwrap());
    other.refresh().unwrap();
    other.add(&expert("b", 1), Put::New).unwrap();
    assert_eq!(other.history(1).unwrap()[0].time, ahead.time);
    // Nothing counts as old because of it.
    let purged = other
        .purge(std::time::Duration::from_secs(60), false)
        .unwrap();
    assert_eq!(purged.oldest, 1);
}

fn merged(name: &str, seed: u64) -> Expert {
    let mut merged = expert(name, seed);
    merged.card.origin = serde_json::json!({ "merge": { "merge": "cat" } });
    merged
}

#[test]
fn merged_experts_count_where_they_are_asked_for() {
    let (_dir, library) = fresh();
    for plain in ["a", "b"] {
        library.add(&expert(plain, 1), Put::New).unwrap();
    }
    let before = library.members(&Members::Trained).unwrap();
    let fingerprint = before.fingerprint().unwrap();
    library.add(&merged("m", 2), Put::New).unwrap();
    let listed = |which: &Members| names(&library.members(which).unwrap());
    assert_eq!(names(&library), ["a", "b", "m"]);
    assert_eq!(listed(&Members::Trained), ["a", "b"]);
    assert_eq!(listed(&Members::All), ["a", "b", "m"]);
    let named = Members::Named(vec![name("m"), name("a")]);
    assert_eq!(listed(&named), ["a", "m"]);
    let view = library.members(&named).unwrap();
    assert!(view.entry(&name("b")).is_err() && view.experts().unwrap().len() == 2);
    assert_eq!(view.cards().unwrap().len(), 2);
    // What is made of all trained experts is what it was.
    let after = library.members(&Members::Trained).unwrap();
    assert_eq!(after.fingerprint().unwrap(), fingerprint);
    assert_eq!(names(&library.chosen().unwrap()), ["a", "b"]);
    assert_eq!(names(&view.chosen().unwrap()), ["a", "m"]);
    let missing = library.members(&Members::Named(vec![name("aa")]));
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    // A copy of a selection holds no more.
    let to = Library::create("memory://selected").unwrap();
    view.copy_to(&to).unwrap();
    assert_eq!(names(&to), ["a", "m"]);
}

#[test]
fn a_library_of_merged_experts_alone_says_so() {
    let (_dir, library) = fresh();
    assert!(library.members(&Members::Trained).is_ok());
    library.add(&merged("m", 2), Put::New).unwrap();
    let error = library.members(&Members::Trained).unwrap_err();
    assert!(error.to_string().contains("merged experts only (`m`)"));
    assert_eq!(names(&library.members(&Members::All).unwrap()), ["m"]);
}

#[test]
fn a_batch_since_a_version_sees_what_others_changed_after_it() {
    let (one, other) = memory();
    one.add(&expert("a", 1), Put::New).unwrap();
    let since = one.now();
    other.refresh().unwrap();
    other.add(&expert("a", 2), Put::Replace).unwrap();
    other.add(&expert("n", 2), Put::New).unwrap();
    // Its own commit of something else moves the handle on, past what the other did.
    let mut batch = one.batch_since(&since).unwrap();
    batch.add(&expert("b", 1), Put::New).unwrap();
    batch.commit().unwrap();
    for which in ["a", "n"] {
        let mut batch = one.batch_since(&since).unwrap();
        batch.add(&expert(which, 3), Put::Replace).unwrap();
        assert!(matches!(batch.commit(), Err(Error::Conflict(_))), "{which}");
    }
}
