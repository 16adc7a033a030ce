//! Remote stores under failing, refusing, lying or absent servers; no message contains a secret.

use crate::servers::http::Response;
use crate::servers::s3::{SECRET, error};
use crate::servers::{self, hub::TOKEN};
use crate::store_laws::Backend;
use crate::work::Work;

/// The error message of a process that fails at `job`; it must not contain a secret.
pub(crate) fn complaint(work: &Work, job: &str) -> String {
    let said = work.fails(job);
    assert!(!said.contains(SECRET) && !said.contains(TOKEN), "{said}");
    said
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_bucket_that_refuses_is_understood() {
    let (place, s3) = Backend::s3();
    let work = Work::new(&place.vars);
    let list = format!("list {}", place.uri);
    work.done(&format!("add {} e 1 3 1", place.uri));
    for (status, code, says, asked) in [
        (
            401,
            "Unauthorized",
            "missing, wrong or expired (401 Unauthorized)",
            1,
        ),
        (
            403,
            "AccessDenied",
            "access is denied (403 AccessDenied)",
            1,
        ),
        (400, "ExpiredToken", "have expired (400 ExpiredToken)", 1),
        (403, "RequestTimeTooSkewed", "clock is wrong", 1),
        (
            404,
            "NoSuchBucket",
            "no such place (404 NoSuchBucket); make it first",
            1,
        ),
        (
            429,
            "TooManyRequests",
            "too many requests (429 TooManyRequests, asked 5 times)",
            5,
        ),
        (
            503,
            "SlowDown",
            "too many requests (503 SlowDown, asked 5 times)",
            5,
        ),
        (
            500,
            "InternalError",
            "the server failed (500 InternalError, asked 5 times)",
            5,
        ),
    ] {
        s3.asked();
        s3.fault("GET", 100, error(status, code));
        let said = complaint(&work, &list);
        s3.calm();
        assert!(said.contains(says), "{said}");
        assert_eq!(s3.asked().len(), asked, "{code}");
    }
    // What passes is waited out.
    for status in [429, 500, 503] {
        s3.fault("/library.json", 2, error(status, "Passing"));
        assert!(work.done(&list).contains("listed 3"));
        s3.calm();
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_bucket_that_is_not_there_is_no_empty_library() {
    let (place, _s3) = Backend::s3();
    let work = Work::new(&place.vars);
    let said = complaint(&work, "add s3://nowhere/lib e 1 1 1");
    assert!(
        said.contains("no such place") && said.contains("make it first"),
        "{said}"
    );
    let said = complaint(&work, &format!("list {}", place.uri));
    assert!(
        said.contains("library `s3://lib") && said.contains("not found"),
        "{said}"
    );
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_server_that_is_not_there_is_said() {
    let port = servers::foreign::free_port();
    let url = format!("http://127.0.0.1:{port}");
    for (uri, vars) in [
        ("s3://lib/x", servers::s3_vars(&url, SECRET)),
        ("hf://tester/lib", servers::hub_vars(&url, TOKEN)),
        ("az://devstoreaccount1/lib/x", servers::azure_vars(port)),
    ] {
        let said = complaint(&Work::new(&vars), &format!("list {uri}"));
        assert!(
            said.contains(uri) && said.contains("cannot be reached"),
            "{said}"
        );
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn settings_that_cannot_be_used_are_not_repeated() {
    let work = Work::new(&vec![(
        "AZURE_STORAGE_ACCOUNT_KEY",
        format!("{SECRET}!not base64"),
    )]);
    let said = complaint(&work, "list az://account/container");
    assert!(said.contains("settings for Azure"), "{said}");
    let work = Work::new(&vec![("HF_ENDPOINT", SECRET.into())]);
    let said = complaint(&work, "list hf://a/b");
    assert!(said.contains("HF_ENDPOINT must begin with"), "{said}");
    let work = Work::new(&vec![("AWS_PROFILE", "nobody".into())]);
    let said = complaint(&work, "list s3://lib");
    assert!(said.contains("AWS_PROFILE names `nobody`"), "{said}");
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn keys_come_from_the_profile_in_use() {
    let (place, _s3) = Backend::s3();
    let url = &place.vars[0].1;
    let work = Work::new(&vec![("AWS_PROFILE", "lab".into())]);
    let dir = work.home().join(".aws");
    std::fs::create_dir(&dir).unwrap();
    let keys = format!("[lab]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n");
    std::fs::write(dir.join("credentials"), keys).unwrap();
    let config = format!("[profile lab]\nregion = us-east-1\nendpoint_url = {url}\n");
    std::fs::write(dir.join("config"), config).unwrap();
    work.done(&format!("add {} e 1 1 1", place.uri));
    assert!(
        work.done(&format!("list {}", place.uri))
            .contains("listed 1")
    );
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn broken_downloads_are_repeated_and_then_told() {
    let (place, s3) = Backend::s3();
    let fresh = || Work::new(&place.vars);
    fresh().done(&format!("add {} e 1 1 1", place.uri));
    let list = format!("list {}", place.uri);
    let cut = Response {
        status: 200,
        headers: vec![("content-length".into(), "5000".into())],
        body: vec![7; 5000],
        cut: Some(1000),
    };
    let dated = |r: Response| {
        r.with("etag", "\"e\"")
            .with("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
    };
    s3.fault("GET /lib/a/é/objects", 1000, dated(cut));
    let said = complaint(&fresh(), &list);
    s3.calm();
    assert!(said.contains("arrived incomplete"), "{said}");
    assert!(fresh().done(&list).contains("listed 1"));
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn damaged_objects_are_refused_and_not_kept() {
    let (place, s3) = Backend::s3();
    let work = Work::new(&place.vars);
    work.done(&format!("add {} e 1 1 1", place.uri));
    let reader = Work::new(&place.vars);
    assert!(s3.damage("objects/") > 0);
    let said = complaint(&reader, &format!("list {}", place.uri));
    assert!(said.contains("damaged"), "{said}");
    s3.damage("objects/");
    assert!(
        reader
            .done(&format!("list {}", place.uri))
            .contains("listed 1")
    );
}

/// A check asks the place itself: the good copies that reading made do not hide what is wrong.
#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_damaged_object_behind_a_good_copy_is_found() {
    let (place, s3) = Backend::s3();
    let work = Work::new(&place.vars);
    s3.asked();
    work.done(&format!("add {} e 1 2 2", place.uri));
    let asked = s3.asked();
    let mut objects: Vec<String> = { asked.iter() }
        .filter_map(|line| Some(line.strip_prefix("PUT /lib/")?.to_owned()))
        .filter(|key| key.contains("/objects/"))
        .collect();
    objects.sort();
    objects.dedup();
    let (list, check) = (
        format!("list {}", place.uri),
        format!("check {}", place.uri),
    );
    assert!(work.done(&list).contains("listed 2"));
    let sound = work.done(&check);
    let said = format!("checked {} objects", objects.len());
    assert!(sound.contains(&said), "{said}\n{sound}");
    // Two cards, their weights and configuration, a shard of the index and its root: each alone.
    assert_eq!(objects.len(), 6, "{objects:?}");
    for object in &objects {
        assert_eq!(s3.damage(object), 1, "{object}");
        assert!(work.done(&list).contains("listed 2"));
        let said = work.fails(&check);
        assert!(said.contains("damaged"), "{object}: {said}");
        s3.damage(object);
    }
    work.done(&check);
    // Without the place nothing can be promised about it.
    let bytes = s3.damage("objects/");
    assert_eq!(bytes, objects.len());
    assert!(work.fails(&check).contains("damaged"));
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_new_library_is_tried_once_and_its_marker_asked_for_once() {
    let (place, s3) = Backend::s3();
    let work = Work::new(&place.vars);
    for (marker, probes) in [([1, 1], 7), ([1, 0], 7)] {
        s3.asked();
        work.done(&format!("create {}", place.uri));
        let asked = s3.asked();
        let count = |part: &str| asked.iter().filter(|line| line.contains(part)).count();
        let [gets, puts] = marker;
        assert_eq!(count("GET /lib/a/é/library.json"), gets, "{asked:?}");
        assert_eq!(count("PUT /lib/a/é/library.json"), puts, "{asked:?}");
        // Four creates at once, a late one, a look at what stayed, and its end.
        assert_eq!(count("/probe/"), probes, "{asked:?}");
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_cache_is_read_verified_and_serves_offline() {
    let (place, s3) = Backend::s3();
    let list = format!("list {}", place.uri);
    Work::new(&place.vars).done(&format!("add {} e 1 5 1", place.uri));
    let work = Work::new(&place.vars);
    s3.asked();
    work.done(&list);
    let first = s3
        .asked()
        .iter()
        .filter(|line| line.contains("/objects/"))
        .count();
    work.done(&list);
    let again = s3
        .asked()
        .iter()
        .filter(|line| line.contains("/objects/"))
        .count();
    assert!(first >= 5 && again == 0, "{first} {again}");
    // A damaged copy is fetched again.
    let objects = work.home().join(".cache/lyceum/objects");
    let mut damaged = 0;
    for ab in std::fs::read_dir(&objects).unwrap() {
        for file in std::fs::read_dir(ab.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[0] ^= 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged >= 5, "{damaged}");
    assert!(work.done(&list).contains("listed 5"));
    let (hub_place, hub) = Backend::hub();
    let work = Work::new(&hub_place.vars);
    Work::new(&hub_place.vars).done(&format!("add {} e 1 5 1", hub_place.uri));
    let list = format!("list {}", hub_place.uri);
    work.done(&list);
    let work = work.with("HF_HUB_OFFLINE", "1");
    hub.asked();
    assert!(work.done(&list).contains("listed 5"));
    let said = complaint(&work, &format!("add {} f 1 1 1", hub_place.uri));
    assert!(said.contains("offline"), "{said}");
    let said = complaint(&work, "list hf://tester/never");
    assert!(said.contains("not in the cache"), "{said}");
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_hub_that_refuses_is_understood() {
    let (place, hub) = Backend::hub();
    let work = Work::new(&place.vars);
    let list = format!("list {}", place.uri);
    let said = complaint(&work, &list);
    assert!(said.contains("there is no such repository"), "{said}");
    work.done(&format!("add {} e 1 2 1", place.uri));
    for (status, says) in [
        (401, "missing, wrong or expired"),
        (403, "access is denied"),
        (429, "too many requests (429, asked 5 times)"),
        (500, "the server failed (500, asked 5 times)"),
    ] {
        let body = format!("{{\"error\":\"{TOKEN}\"}}");
        hub.fault("/resolve/", 100, Response::new(status, body));
        let said = complaint(&Work::new(&place.vars), &list);
        assert!(said.contains(says), "{said}");
        hub.calm();
    }
    let wrong = Work::new(&servers::hub_vars(&hub.server.url, "hf_expired"));
    let said = complaint(&wrong, &list);
    assert!(
        said.contains("expired (401)") && !said.contains("hf_expired"),
        "{said}"
    );
    // A token from the file the hub's own tools keep.
    let vars = vec![("HF_ENDPOINT", hub.server.url.clone())];
    let work = Work::new(&vars);
    let dir = work.home().join(".cache/huggingface");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("token"), format!("{TOKEN}\n")).unwrap();
    work.done(&format!("add {} f 1 1 1", place.uri));
    // One commit for the repository, one for the marker, one per version.
    assert_eq!(hub.commits("tester/lib"), 2 + 3);
}
