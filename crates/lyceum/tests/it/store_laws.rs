//! Laws of every store. Each remote store is tested in a process of its own, which finds it by the
//! usual variables of its service.

use std::sync::Mutex;

use lyceum::Error;
use lyceum::store::{self, Put, Store, probe};

use crate::servers::{self, Vars, foreign, hub::Hub, hub::TOKEN, s3::S3};
use crate::work::Work;

/// A place to try: its address, and how a process finds it.
pub(crate) struct Backend {
    pub(crate) uri: String,
    pub(crate) vars: Vars,
    _held: Option<foreign::Running>,
}

impl Backend {
    fn of(uri: &str, vars: Vars, held: Option<foreign::Running>) -> Self {
        let uri = uri.to_owned();
        let _held = held;
        Backend { uri, vars, _held }
    }

    /// The hub of these tests.
    pub(crate) fn hub() -> (Self, Hub) {
        let hub = Hub::start();
        let vars = servers::hub_vars(&hub.server.url, TOKEN);
        (Backend::of("hf://tester/lib", vars, None), hub)
    }

    /// The bucket of these tests.
    pub(crate) fn s3() -> (Self, S3) {
        let s3 = S3::start();
        let vars = servers::s3_vars(&s3.server.url, servers::s3::SECRET);
        (Backend::of("s3://lib/a/é", vars, None), s3)
    }

    /// The same, asked as Google Cloud is.
    pub(crate) fn gcs() -> (Self, S3) {
        let s3 = S3::start();
        let vars = servers::gcs_vars(&s3.server.url);
        (Backend::of("gs://lib/a/é", vars, None), s3)
    }

    pub(crate) fn moto() -> Option<Self> {
        let moto = foreign::moto()?;
        let vars = servers::s3_vars(&format!("http://127.0.0.1:{}", moto.port), "testtest");
        Some(Backend::of("s3://lib/some/prefix", vars, Some(moto)))
    }

    pub(crate) fn azurite() -> Option<Self> {
        let azurite = foreign::azurite()?;
        let vars = servers::azure_vars(azurite.port);
        let uri = "az://devstoreaccount1/lib/prefix";
        Some(Backend::of(uri, vars, Some(azurite)))
    }
}

pub(crate) fn laws(store: &dyn Store) {
    assert!(matches!(store.get("a/b"), Err(Error::NotFound { .. })));
    assert!(!store.exists("a/b").unwrap());
    assert!(store.list("").unwrap().is_empty());
    store.put("a/b", b"1", Put::New).unwrap();
    store.put("a/é ü+%20", b"2", Put::New).unwrap();
    store.put("c", b"", Put::Replace).unwrap();
    assert_eq!(store.get("a/b").unwrap(), b"1");
    assert_eq!(store.get("a/é ü+%20").unwrap(), b"2");
    assert_eq!(store.get("c").unwrap(), b"");
    assert!(store.exists("a/b").unwrap() && !store.exists("a").unwrap());
    let again = store.put("a/b", b"3", Put::New);
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(store.get("a/b").unwrap(), b"1");
    store.put("a/b", b"3", Put::Replace).unwrap();
    assert_eq!(store.get("a/b").unwrap(), b"3");
    store.flush().unwrap();
    assert_eq!(store.list("").unwrap(), ["a/b", "a/é ü+%20", "c"]);
    assert_eq!(store.list("a/").unwrap(), ["a/b", "a/é ü+%20"]);
    assert_eq!(store.list("a/é").unwrap(), ["a/é ü+%20"]);
    assert!(store.list("none/").unwrap().is_empty());
    store.delete("a/b").unwrap();
    store.delete("a/b").unwrap();
    assert_eq!(store.list("").unwrap(), ["a/é ü+%20", "c"]);
    for bad in ["", "/a", "../a", "a/../b", "a//b", ".hidden", "a\\b"] {
        assert!(store.put(bad, b"x", Put::New).is_err(), "{bad}");
        assert!(store.get(bad).is_err(), "{bad}");
    }
    races(store);
    let big: Vec<u8> = (0..20_000_000u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    store.put("big", &big, Put::New).unwrap();
    assert!(store.get("big").unwrap() == big);
    store.stage("staged", b"4").unwrap();
    let also = [
        ("also".to_owned(), Some(b"5".to_vec())),
        ("c".to_owned(), None),
    ];
    store.create("last", b"6", &also).unwrap();
    let error = store.create("last", b"7", &also).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(store.get("staged").unwrap(), b"4");
    assert_eq!(store.get("last").unwrap(), b"6");
    assert_eq!(store.exists("also").unwrap(), store.atomic());
    assert_eq!(store.exists("c").unwrap(), !store.atomic());
}

fn races(store: &dyn Store) {
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

/// More keys than a page of any listing holds.
fn pages(store: &dyn Store) {
    let keys: Vec<String> = (0..1100).map(|n| format!("many/{n:05}")).collect();
    if store.atomic() {
        keys.iter()
            .for_each(|key| store.stage(key, key.as_bytes()).unwrap());
        store.create("end", b"", &[]).unwrap();
    } else {
        std::thread::scope(|scope| {
            for some in keys.chunks(140) {
                let put = |key: &String| store.put(key, b"x", Put::New).unwrap();
                scope.spawn(move || some.iter().for_each(put));
            }
        });
    }
    assert_eq!(store.list("many/").unwrap(), keys);
    assert_eq!(store.list("many/0109").unwrap().len(), 10);
    store.delete_all(&keys).unwrap();
    assert!(store.list("many/").unwrap().is_empty());
}

/// The job of a process started by these tests.
pub(crate) fn obey(uri: &str) {
    let store = store::open(uri).unwrap();
    laws(&*store);
    pages(&*store);
}

fn obeyed(place: &Backend) {
    let work = Work::new(&place.vars);
    work.done(&format!("laws {}", place.uri));
}

#[test]
fn local_and_memory_obey() {
    let dir = tempfile::tempdir().unwrap();
    for uri in [dir.path().join("lib").to_str().unwrap(), "memory://laws"] {
        obey(uri);
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_hub_obeys() {
    obeyed(&Backend::hub().0);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_bucket_obeys() {
    obeyed(&Backend::s3().0);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_bucket_of_googles_obeys() {
    let (place, s3) = Backend::gcs();
    obeyed(&place);
    s3.asked();
    let said = Work::new(&servers::gcs_vars(&s3.server.url.replace("http://", "")))
        .done("add gs://lib/without/scheme e 1 1 1");
    assert!(
        said.contains("done e0 1") && !s3.asked().is_empty(),
        "{said}"
    );
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn moto_obeys() {
    if let Some(place) = Backend::moto() {
        obeyed(&place);
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn azurite_obeys() {
    if let Some(place) = Backend::azurite() {
        obeyed(&place);
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_store_that_lies_is_only_read() {
    if let Some(s3rver) = foreign::s3rver() {
        let url = format!("http://127.0.0.1:{}", s3rver.port);
        let work = Work::new(&servers::s3_vars(&url, "S3RVER"));
        let said = work.fails("add s3://lib/liar e 1 1 1");
        assert!(
            said.contains("two writers could overwrite each other"),
            "{said}"
        );
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_hub_that_ignores_parents_is_only_read() {
    let (place, hub) = Backend::hub();
    hub.lie();
    let said = Work::new(&place.vars).fails(&format!("add {} e 1 1 1", place.uri));
    assert!(said.contains("Lyceum only reads here"), "{said}");
}
