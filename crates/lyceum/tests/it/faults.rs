//! Failing stores: refusals, lost answers, full disks, read-only places. No write is lost, and the
//! error names the reason.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::library::{Committed, checked};
use crate::remote::complaint;
use crate::servers::http::Response;
use crate::servers::{self, hub::TOKEN, s3};
use crate::store_laws::Backend;
use crate::work::Work;

/// The library at `uri` holds `prefix`0, `prefix`1, ... of seed 1, `count` of them, in `versions`
/// versions, and nothing is wrong with it.
fn holds(work: &Work, uri: &str, prefix: &str, (count, versions): (u64, u64)) {
    let committed: Committed = (0..count)
        .map(|n| (format!("{prefix}{n}"), BTreeSet::from([1])))
        .collect();
    let found = checked(work, uri, &committed);
    assert_eq!((found["experts"], found["version"]), (count, versions));
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_bucket_that_refuses_writers_loses_nothing() {
    for (place, bucket) in [Backend::s3(), Backend::gcs()] {
        let work = Work::new(&place.vars);
        let add = |what: &str| format!("add {} {what} 1 1 1", place.uri);
        work.done(&format!("add {} e 1 3 1", place.uri));
        let refusals = [
            (401, "Unauthorized", "missing, wrong or expired (401", 1),
            (
                403,
                "AccessDenied",
                "access is denied (403 AccessDenied)",
                1,
            ),
            (400, "ExpiredToken", "have expired (400 ExpiredToken)", 1),
            (403, "RequestTimeTooSkewed", "clock is wrong", 1),
            (404, "NoSuchBucket", "no such place (404 NoSuchBucket)", 1),
            (
                429,
                "TooManyRequests",
                "(429 TooManyRequests, asked 5 times)",
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
        ];
        for (status, code, says, asked) in refusals {
            bucket.asked();
            bucket.fault("PUT /lib/a/é/versions/", 1000, s3::error(status, code));
            let said = complaint(&work, &add("f"));
            bucket.calm();
            assert!(said.contains(says), "{said}");
            let lines = bucket.asked();
            let puts = lines
                .iter()
                .filter(|line| line.contains("PUT /lib/a/é/versions/"));
            assert_eq!(puts.count(), asked, "{code}");
        }
        // Who may only read is told before anything is written.
        bucket.asked();
        bucket.fault("PUT ", 1000, s3::error(403, "AccessDenied"));
        let said = complaint(&work, &add("g"));
        bucket.calm();
        assert!(
            said.contains("cannot be written") && said.contains("access is denied"),
            "{said}"
        );
        assert!(
            !bucket
                .asked()
                .iter()
                .any(|line| line.contains("PUT /lib/a/é/objects"))
        );
        holds(&work, &place.uri, "e", (3, 3));
        work.done(&format!("purge {}", place.uri));
        holds(&work, &place.uri, "e", (3, 4));
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn what_was_written_although_the_answer_was_lost_is_known_again() {
    for lost in [s3::error(500, "InternalError"), Response::reset()] {
        for (place, bucket) in [Backend::s3(), Backend::gcs()] {
            let work = Work::new(&place.vars);
            for part in ["library.json", "probe/", "objects/", "versions/000"] {
                bucket.lose(&format!("PUT /lib/a/é/{part}"), 2, lost.clone());
            }
            work.done(&format!("add {} e 1 3 1", place.uri));
            holds(&work, &place.uri, "e", (3, 3));
        }
        let (place, hub) = Backend::hub();
        let work = Work::new(&place.vars);
        hub.lose("POST /api/repos/create", 1, lost.clone());
        hub.lose("/commit/", 3, lost.clone());
        work.done(&format!("add {} e 1 3 1", place.uri));
        holds(&work, &place.uri, "e", (3, 3));
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_hub_that_refuses_commits_loses_nothing() {
    let (place, hub) = Backend::hub();
    let work = Work::new(&place.vars);
    work.done(&format!("add {} e 1 3 1", place.uri));
    let add = format!("add {} f 1 1 1", place.uri);
    for (status, says, asked) in [
        (401, "missing, wrong or expired (401)", 1),
        (403, "access is denied (403)", 1),
        // Asked whether it looks at parents, a hub may say that there is none.
        (404, "no such place (404)", 2),
        (429, "too many requests (429, asked 5 times)", 5),
        (500, "the server failed (500, asked 5 times)", 5),
    ] {
        hub.asked();
        let body = format!("{{\"error\":\"{TOKEN}\"}}");
        hub.fault("/commit/", 1000, Response::new(status, body));
        let said = complaint(&work, &add);
        hub.calm();
        assert!(said.contains(says), "{said}");
        let lines = hub.asked();
        let commits = lines.iter().filter(|line| line.contains("/commit/"));
        assert_eq!(commits.count(), asked, "{status}");
    }
    holds(&work, &place.uri, "e", (3, 3));
    // It says how long to wait.
    hub.fault("/commit/", 2, Response::new(429, "").with("retry-after", 1));
    let begun = Instant::now();
    work.done(&add);
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn an_azure_key_that_is_wrong_or_has_expired_is_said() {
    let Some(place) = Backend::azurite() else {
        return;
    };
    let work = Work::new(&place.vars);
    work.done(&format!("add {} e 1 1 1", place.uri));
    let wrong = Work::new(&place.vars).with("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=");
    for job in ["list", "add"] {
        let said = complaint(&wrong, &format!("{job} {} f 1 1 1", place.uri));
        assert!(said.contains("access is denied (403"), "{said}");
        assert!(said.contains("have expired or do not permit"), "{said}");
        assert!(!said.contains("d3Jvbmc="), "{said}");
    }
    holds(&work, &place.uri, "e", (1, 1));
}

/// Under a limit on the size of files, which stands for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("lib").display().to_string();
    let work = Work::new(&Vec::new());
    work.done(&format!("add {uri} e 1 3 1"));
    for limit in [0, 1, 2] {
        // A write fails, or kills the process.
        for trap in ["trap '' XFSZ; ", ""] {
            let full = Work::new(&Vec::new()).under(&format!("{trap}ulimit -f {limit};"));
            let said = complaint(&full, &format!("add {uri} f 2 2 2"));
            assert!(trap.is_empty() || said.contains("File too large"), "{said}");
        }
    }
    holds(&work, &uri, "e", (3, 3));
    work.done(&format!("purge {uri}"));
    holds(&work, &uri, "e", (3, 4));
}

#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_remote_place_is_read_where_there_is_no_room_to_keep_copies() {
    let (place, _bucket) = Backend::s3();
    Work::new(&place.vars).done(&format!("add {} e 1 3 1", place.uri));
    let full = Work::new(&place.vars).under("trap '' XFSZ; ulimit -f 0;");
    let said = full.done(&format!("list {}", place.uri));
    assert!(said.contains("listed 3"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_on_a_read_only_disk_is_read_and_not_written() {
    let tried = std::process::Command::new("unshare")
        .args(["-rm", "true"])
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("NOT TESTED: read-only disks need `unshare -rm`");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("lib").display().to_string();
    let work = Work::new(&Vec::new());
    work.done(&format!("add {uri} e 1 3 1"));
    let mount = format!("mount --bind {uri} {uri} && mount -o remount,ro,bind {uri} &&");
    let read_only = Work::new(&Vec::new()).under(&mount).apart();
    assert!(read_only.done(&format!("list {uri}")).contains("listed 3"));
    let said = complaint(&read_only, &format!("add {uri} f 1 1 1"));
    assert!(
        said.contains("cannot be written") && said.contains("Read-only"),
        "{said}"
    );
    holds(&work, &uri, "e", (3, 3));
}

/// No address that holds a secret is repeated.
#[test]
fn secrets_in_addresses_are_not_said() {
    let work = Work::new(&servers::s3_vars("http://127.0.0.1:9", "k"));
    for uri in [
        format!("s3://key:{}@bucket/x", s3::SECRET),
        format!("az://account/container?sig={}", s3::SECRET),
        format!("hf://user:{TOKEN}@owner/name"),
    ] {
        let said = complaint(&work, &format!("list {uri}"));
        assert!(said.contains("credentials do not belong"), "{said}");
    }
}
