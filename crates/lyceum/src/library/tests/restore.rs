//! Removing, restoring and purging.

use super::*;

#[test]
fn removed_experts_can_be_restored_and_renamed_ones_keep_their_artifacts() {
    let (_dir, library) = fresh();
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    library.add(&expert("a", 1), Put::New).unwrap();
    library.put_artifact(&artifact(&expert("a", 1))).unwrap();
    library.remove(&a).unwrap();
    assert!(library.names().unwrap().is_empty() && library.remove(&a).is_err());
    library.restore(&a).unwrap();
    library.rename(&a, &b).unwrap();
    assert_eq!(library.names().unwrap(), std::slice::from_ref(&b));
    let artifacts = library
        .artifact(&Name::new("arrow").unwrap(), None)
        .unwrap();
    assert_eq!(artifacts[&b].expert, b);
}

#[test]
fn a_purge_gives_up_what_is_old_and_nothing_else() {
    let (library, reader) = memory();
    library.add(&expert("a", 1), Put::New).unwrap();
    library.add(&expert("a", 2), Put::Replace).unwrap();
    library.add(&expert("b", 3), Put::New).unwrap();
    library.remove(&name("b")).unwrap();
    let age = std::time::Duration::from_secs;
    let kept = library.purge(age(3600), false).unwrap();
    assert_eq!((kept.experts, kept.oldest), (0, 1));
    assert_eq!(
        library.at(1).unwrap().card(&name("a")).unwrap(),
        expert("a", 1).card
    );
    library.restore(&name("b")).unwrap();
    library.remove(&name("b")).unwrap();
    // A writer whose objects a purge deletes writes them again.
    reader.refresh().unwrap();
    let mut batch = reader.batch().unwrap();
    batch.add(&expert("late", 5), Put::New).unwrap();
    let purged = library.purge(age(0), false).unwrap();
    assert_eq!((purged.experts, purged.oldest), (1, library.version()));
    assert!(purged.objects > 0);
    let error = batch.commit().unwrap_err();
    assert!(error.to_string().contains("purged"), "{error}");
    reader.refresh().unwrap();
    reader.add(&expert("late", 5), Put::New).unwrap();
    library.refresh().unwrap();
    let checked = library.check().unwrap();
    assert_eq!((checked.problems.len(), checked.experts), (0, 2));
    let error = library.at(1).unwrap_err().chain();
    assert!(error.contains("purged"), "{error}");
    assert!(library.restore(&name("b")).is_err());
    // What an older version had may be added again.
    library.add(&expert("b", 3), Put::New).unwrap();
    library.purge(age(0), false).unwrap();
    let checked = library.check().unwrap();
    assert_eq!((checked.problems.len(), checked.unreferenced), (0, 0));
    assert_eq!(names(&library), ["a", "b", "late"]);
}

#[test]
fn a_purge_between_writing_and_committing_loses_nothing() {
    let (one, two) = memory();
    one.add(&expert("a", 1), Put::New).unwrap();
    two.refresh().unwrap();
    let mut batch = two.batch().unwrap();
    batch.add(&expert("b", 2), Put::New).unwrap();
    batch.put_artifact(&artifact(&expert("a", 1))).unwrap();
    // A purge has committed and knows what it will delete, but deletes only after the batch.
    let base = one.snapshot();
    one.commit(&base, &[], true).unwrap();
    let head = one.snapshot();
    let (_, garbage) = one.garbage(&head, u64::MAX, head.epoch()).unwrap();
    assert!(garbage.len() >= 4);
    batch.commit().unwrap();
    let store = &one.shared.objects.store;
    garbage.iter().for_each(|key| store.delete(key).unwrap());
    one.refresh().unwrap();
    let checked = one.check().unwrap();
    assert_eq!((checked.problems.len(), checked.experts), (0, 2));
    assert!(one.is_derived(&name("arrow"), &name("a")).unwrap());
}

#[test]
fn what_an_expert_was_is_brought_back_with_its_artifacts() {
    let (_dir, library) = fresh();
    library.add(&expert("a", 1), Put::New).unwrap();
    library.put_artifact(&artifact(&expert("a", 1))).unwrap();
    library.add(&expert("a", 2), Put::Replace).unwrap();
    library.add(&expert("b", 3), Put::New).unwrap();
    let (one, arrow) = ([name("a")], name("arrow"));
    let refused = library.restore_at(&one, 2, Put::New);
    assert!(matches!(refused, Err(Error::Exists { .. })));
    assert_eq!(library.version(), 4);
    assert_eq!(library.restore_at(&one, 2, Put::Replace).unwrap(), 5);
    let seed = |library: &Library| library.card(&name("a")).unwrap().origin["seed"].clone();
    assert_eq!(seed(&library), 1);
    assert!(library.is_derived(&arrow, &name("a")).unwrap());
    let history = library.history(1).unwrap();
    assert_eq!(history[0].changes[0].to_string(), "restored a");
    // Once more: nothing to do. The version before keeps what was replaced.
    assert_eq!(library.restore_at(&one, 2, Put::New).unwrap(), 5);
    assert_eq!(seed(&library.at(4).unwrap()), 2);
    // Removed since, or put away under another name.
    library.remove(&name("a")).unwrap();
    library.restore_at(&one, 4, Put::New).unwrap();
    assert_eq!(seed(&library), 2);
    library.rename(&name("a"), &name("c")).unwrap();
    library.restore_at(&one, 1, Put::New).unwrap();
    assert_eq!(names(&library), ["a", "b", "c"]);
    assert_eq!(library.check().unwrap().problems, []);
    for (wanted, version) in [("b", 3), ("d", 4), ("a", 99)] {
        let error = library.restore_at(&[name(wanted)], version, Put::Replace);
        let error = error.unwrap_err().chain();
        assert!(error.contains("not found"), "{error}");
    }
}

#[test]
fn several_are_brought_back_or_none() {
    let (_dir, library) = fresh();
    for (which, seed) in [("a", 1), ("b", 2)] {
        library.add(&expert(which, seed), Put::New).unwrap();
    }
    library.remove(&name("a")).unwrap();
    library.add(&expert("b", 9), Put::Replace).unwrap();
    let both = [name("a"), name("b")];
    assert!(library.restore_at(&both, 2, Put::New).is_err());
    assert_eq!(names(&library), ["b"]);
    library.restore_at(&both, 2, Put::Replace).unwrap();
    assert_eq!(library.card(&name("b")).unwrap().origin["seed"], 2);
    assert_eq!(names(&library), ["a", "b"]);
}

#[test]
fn what_was_restored_from_before_a_purge_stays() {
    let (_dir, library) = fresh();
    library.add(&expert("a", 1), Put::New).unwrap();
    library.add(&expert("a", 2), Put::Replace).unwrap();
    library.restore_at(&[name("a")], 1, Put::Replace).unwrap();
    library.purge(std::time::Duration::ZERO, false).unwrap();
    assert_eq!(library.check().unwrap().problems, []);
    assert_eq!(library.card(&name("a")).unwrap().origin["seed"], 1);
    let error = library.restore_at(&[name("a")], 2, Put::Replace);
    assert!(error.unwrap_err().chain().contains("purged"));
}
