//! A library under killed writers, many writers, and at size.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lyceum::expert::{Card, Expert};
use lyceum::library::Library;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::rng::Rng;
use lyceum::store::{Memory, Put, Store};
use lyceum::{Name, Result, Site};

fn expert(name: &str, seed: u64) -> Expert {
    let mut rng = Rng::new(seed);
    let tensor = |rng: &mut Rng, n, m| {
        Tensor::from_vec(rng.normal(n * m, 1.0), (n, m), &Device::Cpu).unwrap()
    };
    let mut loras = BTreeMap::new();
    for site in ["q_proj", "k_proj", "v_proj"] {
        let (a, b) = (tensor(&mut rng, 4, 32), tensor(&mut rng, 32, 4));
        let site = Site::new(format!("transformer.h.0.attn.attention.{site}"));
        loras.insert(site, Lora::new(a, b, 0.25).unwrap());
    }
    let card = Card {
        name: Name::new(name).unwrap(),
        base: Some("base".into()),
        base_name: "base".into(),
        tasks: vec![Name::new("task").unwrap()],
        lora: LoraConfig::default(),
        origin: serde_json::json!({ "seed": seed }),
        losses: vec![1.0],
        weights: String::new(),
    };
    Expert::new(card, loras).unwrap()
}

const JOB: &str = "LYCEUM_TEST_JOB";

/// Not a test of its own: what the processes started by the other tests do. Says `done NAME SEED`
/// after each thing that was committed.
#[test]
fn worker() {
    let Ok(job) = std::env::var(JOB) else {
        return;
    };
    let words: Vec<&str> = job.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let library = Library::create(words[1]).unwrap();
    match words[0] {
        // add DIR PREFIX SEED COUNT TOGETHER
        "add" => {
            let (seed, together) = (number(3), number(5));
            for from in (0..number(4)).step_by(together as usize) {
                let mut batch = library.batch().unwrap();
                let names: Vec<String> = (from..from + together)
                    .map(|n| format!("{}{n}", words[2]))
                    .collect();
                for name in &names {
                    batch.add(&expert(name, seed), Put::Replace).unwrap();
                }
                batch.commit().unwrap();
                for name in names {
                    println!("\ndone {name} {seed}");
                }
            }
        }
        // copy DIR FROM
        "copy" => {
            let from = Library::open(words[2]).unwrap();
            from.copy_to(&library).unwrap();
        }
        // derive DIR
        "derive" => {
            lyceum::transform::arrow(&library).unwrap();
        }
        other => panic!("{other}"),
    }
}

fn start(job: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["library::worker", "--exact", "--nocapture"])
        .env(JOB, job)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a worker said it had committed, until it ended or was killed.
fn said(child: &mut Child) -> Vec<(String, u64)> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done = |line: String| {
        let mut words = line.strip_prefix("done ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    // The last line may be half a line.
    lines.map_while(|line| line.ok()).filter_map(done).collect()
}

fn sound(dir: &Path, committed: &BTreeMap<String, BTreeSet<u64>>) -> Library {
    let library = Library::open(dir.to_str().unwrap()).unwrap();
    let checked = library.check().unwrap();
    assert_eq!(checked.problems, []);
    let experts = library.experts().unwrap();
    let held: BTreeMap<String, Expert> = { experts.into_iter() }
        .map(|e| (e.card.name.to_string(), e))
        .collect();
    for (name, seeds) in committed {
        let found = held.get(name).unwrap_or_else(|| panic!("{name} is lost"));
        let seed = found.card.origin["seed"].as_u64().unwrap();
        assert!(seeds.contains(&seed), "{name}: {seed} of {seeds:?}");
        assert_eq!(found.fingerprint(), expert(name, seed).fingerprint());
    }
    library
}

/// The folders under `experts/` hold exactly what the library lists.
fn folders_follow(dir: &Path, library: &Library) {
    let listed: BTreeSet<String> = library
        .entries()
        .unwrap()
        .into_keys()
        .map(String::from)
        .collect();
    let mut shown = BTreeSet::new();
    for entry in std::fs::read_dir(dir.join("experts")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with('.') {
            shown.insert(name);
        }
    }
    assert_eq!(shown, listed);
    for (name, entry) in library.entries().unwrap() {
        for (file, blob) in &entry.files {
            let bytes = std::fs::read(dir.join("experts").join(name.as_str()).join(file));
            let object = std::fs::read(dir.join(blob.key())).unwrap();
            assert_eq!(bytes.unwrap(), object, "{name}/{file}");
        }
    }
}

fn killed_at_random(rounds: u64) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lib");
    let from = place.path().join("from");
    let (lib, source) = (dir.to_str().unwrap(), from.to_str().unwrap());
    let library = Library::create(lib).unwrap();
    let mut batch = Library::create(source).unwrap();
    let mut many = batch.batch().unwrap();
    for n in 0..200 {
        let name = format!("copied{n}");
        many.add(&expert(&name, 1), Put::New).unwrap();
    }
    many.commit().unwrap();
    batch = Library::open(source).unwrap();
    assert_eq!(batch.names().unwrap().len(), 200);
    let mut committed: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut rng = Rng::new(11);
    let (mut killed, mut last) = (0, 0);
    for round in 0..rounds {
        let job = match round % 5 {
            0 => format!("add {lib} e {round} 40 1"),
            1 => format!("copy {lib} {source}"),
            2 => format!("add {lib} e {round} 40 4"),
            3 => format!("derive {lib}"),
            // Something to copy and derive again.
            _ => {
                library.refresh().unwrap();
                let copied = { library.names().unwrap().into_iter() }
                    .filter(|name| name.as_str().starts_with("copied"));
                let copied: Vec<Name> = copied.take(120).collect();
                let mut batch = library.batch().unwrap();
                copied.iter().for_each(|name| batch.remove(name));
                batch.commit().unwrap();
                continue;
            }
        };
        let mut child = start(&job);
        std::thread::sleep(Duration::from_micros(4000 + rng.below(120_000) as u64));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // Any seed that may have been committed under a name is a right answer; a name that was
        // said to be committed must be there.
        for (name, seed) in said(&mut child) {
            committed.entry(name).or_default().insert(seed);
        }
        for seeds in committed.values_mut() {
            if job.starts_with("add") {
                seeds.insert(round);
            }
        }
        let version = sound(&dir, &committed).version();
        assert!(version >= last);
        last = version;
    }
    assert!(
        killed as u64 >= rounds / 3,
        "{killed} of {rounds} were killed in time"
    );
    library.refresh().unwrap();
    library.purge(Duration::ZERO, false).unwrap();
    let library = sound(&dir, &committed);
    assert_eq!(library.check().unwrap().unreferenced, 0);
    folders_follow(&dir, &library);
}

#[test]
fn writers_killed_at_random_lose_nothing() {
    killed_at_random(20);
}

#[test]
#[ignore = "minutes: 200 kills"]
fn writers_killed_at_random_lose_nothing_200() {
    killed_at_random(250);
}

fn many_writers(processes: usize, each: usize) -> Duration {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lib");
    let lib = dir.to_str().unwrap();
    let begun = Instant::now();
    let workers: Vec<Child> = (0..processes)
        .map(|p| start(&format!("add {lib} p{p}-e {p} {each} 1")))
        .collect();
    let mut committed = BTreeMap::new();
    for (p, mut worker) in workers.into_iter().enumerate() {
        let done = said(&mut worker);
        assert!(worker.wait().unwrap().success());
        assert_eq!(done.len(), each);
        for (name, seed) in done {
            assert_eq!(seed, p as u64);
            committed.insert(name, BTreeSet::from([seed]));
        }
    }
    let elapsed = begun.elapsed();
    let library = sound(&dir, &committed);
    assert_eq!(library.names().unwrap().len(), processes * each);
    // One version per add: none was lost, none repeated.
    assert_eq!(library.version(), (processes * each) as u64);
    let history = library.history(usize::MAX).unwrap();
    assert!(history.iter().all(|m| m.changed == 1));
    folders_follow(&dir, &library);
    elapsed
}

#[test]
fn eight_processes_add_at_once() {
    many_writers(8, 10);
}

#[test]
#[ignore = "a minute: 1,000 experts by 8 processes"]
fn eight_processes_add_125_each_at_once() {
    println!("{:?}", many_writers(8, 125));
}

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
        println!(
            "{size}: filled {new} in {filled:.1} s; list {list:.1} ms, cards {cards:.1} ms, \
             show {show:.2} ms, add {add:.2} ms"
        );
    }
}
