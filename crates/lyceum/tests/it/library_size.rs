//! A library at size: adding and showing one do not grow with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lyceum::library::Library;
use lyceum::store::{Memory, Put, Store};
use lyceum::{Name, Result};

use crate::library::expert;
use crate::work::Work;

/// Counts what is asked of a store.
#[derive(Debug)]
struct Counted {
    store: Arc<Memory>,
    gets: AtomicUsize,
    puts: AtomicUsize,
    bytes: AtomicUsize,
}

impl Counted {
    fn take(&self) -> (usize, usize, usize) {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        (take(&self.gets), take(&self.puts), take(&self.bytes))
    }
}

impl Store for Counted {
    fn uri(&self) -> String {
        self.store.uri()
    }
    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let bytes = self.store.get(key);
        self.gets.fetch_add(1, Ordering::Relaxed);
        let read = bytes.as_ref().map_or(0, Vec::len);
        self.bytes.fetch_add(read, Ordering::Relaxed);
        bytes
    }
    fn exists(&self, key: &str) -> Result<bool> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.store.exists(key)
    }
    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        self.store.put(key, bytes, how)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.store.delete(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.list(prefix)
    }
}

#[test]
fn adding_and_showing_one_do_not_grow_with_the_library() {
    let store = Arc::new(Counted {
        store: Memory::private("counted"),
        gets: AtomicUsize::new(0),
        puts: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    });
    store
        .put("library.json", b"{\"format\":2}", Put::New)
        .unwrap();
    let open = || Library::over(store.clone(), false).unwrap();
    let mut held = 0;
    for size in [100, 4000] {
        let library = open();
        let mut batch = library.batch().unwrap();
        for n in held..size {
            batch.add(&expert(&format!("e{n}"), n), Put::New).unwrap();
        }
        held = size;
        batch.commit().unwrap();
        store.take();
        let name = Name::new("e7").unwrap();
        assert_eq!(open().expert(&name).unwrap().card.name, name);
        let (gets, puts, bytes) = store.take();
        assert!(
            gets <= 10 && puts == 0 && bytes < 100_000,
            "{size}: {gets} {bytes}"
        );
        let new = format!("new{size}");
        open().add(&expert(&new, 1), Put::New).unwrap();
        let (gets, puts, bytes) = store.take();
        let told = format!("{size}: {gets} gets, {puts} puts, {bytes} bytes");
        assert!(gets <= 12 && puts <= 13 && bytes < 150_000, "{told}");
    }
}

#[test]
#[ignore = "measures a library of 10,000 on disk"]
fn figures_at_size() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lib");
    let lib = dir.to_str().unwrap();
    let mut held = 0;
    let timed = |what: &dyn Fn()| {
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let begun = Instant::now();
                what();
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[4]
    };
    for size in [100u64, 1000, 10_000] {
        let library = Library::create(lib).unwrap();
        let begun = Instant::now();
        let new = size - held;
        while held < size {
            let mut batch = library.batch().unwrap();
            for _ in 0..(size - held).min(500) {
                batch
                    .add(&expert(&format!("e{held}"), held), Put::New)
                    .unwrap();
                held += 1;
            }
            batch.commit().unwrap();
        }
        let filled = begun.elapsed().as_secs_f64();
        let list = timed(&|| {
            let found = Library::open(lib).unwrap().entries().unwrap().len();
            assert!(found as u64 >= size);
        });
        let cards = timed(&|| {
            Library::open(lib).unwrap().cards().unwrap();
        });
        let show = timed(&|| {
            Library::open(lib)
                .unwrap()
                .expert(&Name::new("e7").unwrap())
                .unwrap();
        });
        let next = std::cell::Cell::new(0);
        let add = timed(&|| {
            next.set(next.get() + 1);
            let name = format!("new-{size}-{}", next.get());
            Library::open(lib)
                .unwrap()
                .add(&expert(&name, 3), Put::New)
                .unwrap();
        });
        // The most memory a process of its own takes.
        let peak = |job: &str| {
            let said = Work::new(&Vec::new()).done(job);
            let peak = said.lines().find_map(|line| line.strip_prefix("peak "));
            let kib = peak.and_then(|peak| peak.strip_suffix(" kB"));
            kib.map_or(0.0, |kib| kib.parse::<f64>().unwrap() / 1024.0)
        };
        let peaks = [
            format!("none {lib}"),
            format!("entries {lib}"),
            format!("show {lib} e7"),
            format!("add {lib} peak-{size}- 3 1 1"),
        ]
        .map(|job| peak(&job));
        println!(
            "{size}: filled {new} in {filled:.1} s; list {list:.1} ms, cards {cards:.1} ms, \
             show {show:.2} ms, add {add:.2} ms; most MiB of a process that does nothing {:.1}, \
             lists {:.1}, shows {:.1}, adds {:.1}",
            peaks[0], peaks[1], peaks[2], peaks[3]
        );
    }
}
