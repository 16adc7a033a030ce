//! The library's `tracing` events, as a program that collects them sees them.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use lyceum::library::Library;
use lyceum::store::{Cache, Put, Session};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::library::expert;
use crate::servers::http::Response;
use crate::servers::hub::TOKEN;
use crate::store_laws::Backend;

/// Keeps the library's events as lines: message and fields.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("lyceum")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Lines {
    /// The events of `work`.
    fn of<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
        let lines = Lines::default();
        let value = tracing::subscriber::with_default(lines.clone(), work);
        let lines = std::mem::take(&mut *lines.0.lock().unwrap());
        (value, lines)
    }
}

fn count(lines: &[String], parts: &[&str]) -> usize {
    let holds = |line: &&String| parts.iter().all(|part| line.contains(part));
    lines.iter().filter(holds).count()
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn requests_hits_pauses_and_commits_are_events_without_secrets() {
    let (place, hub) = Backend::hub();
    let dir = tempfile::tempdir().unwrap();
    let session = Session::isolated().with_cache(Cache::new(dir.path()));
    let session = { place.vars.iter() }.fold(session, |s, (name, value)| s.with_var(name, value));
    let ((), made) = Lines::of(|| {
        let library = Library::create_with(&place.uri, &session).unwrap();
        library.add(&expert("a", 1), Put::New).unwrap();
    });
    assert_eq!(count(&made, &["committed", "version=1", "retries=0"]), 1);
    assert!(count(&made, &["store request", "method=\"PUT\"", "status=\"Ok\""]) >= 1);
    let read = || {
        Lines::of(|| {
            let library = Library::open_with(&place.uri, &session).unwrap();
            library.experts().unwrap().len()
        })
    };
    hub.fault("/library.json", 1, Response::new(503, ""));
    let (n, first) = read();
    assert_eq!(n, 1);
    assert_eq!(count(&first, &["back-off", "retry=1"]), 1, "{first:?}");
    assert!(count(&first, &["cache miss", "objects/"]) >= 1);
    assert!(count(&first, &["GET", "library.json", "status=\"Ok\""]) >= 1);
    assert!(count(&first, &["hub request", "status=503"]) >= 1);
    let (_, again) = read();
    assert!(count(&again, &["cache hit", "objects/"]) >= 1);
    assert_eq!(count(&again, &["cache miss"]), 0);
    for line in made.iter().chain(&first).chain(&again) {
        assert!(!line.contains(TOKEN) && !line.contains("http"), "{line}");
    }
}
