//! A library under killed writers and many writers, wherever it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use lyceum::expert::{Card, Expert};
use lyceum::library::Library;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::rng::Rng;
use lyceum::store::Put;
use lyceum::{Name, Site};

use crate::servers::Vars;
use crate::store_laws::{self, Backend};
use crate::work::{JOB, Work, said};

pub(crate) fn expert(name: &str, seed: u64) -> Expert {
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
        base_family: None,
        base_name: "base".into(),
        tasks: vec![Name::new("task").unwrap()],
        lora: LoraConfig::default(),
        origin: serde_json::json!({ "seed": seed }),
        losses: vec![1.0],
        weights: String::new(),
    };
    Expert::new(card, loras).unwrap()
}

/// Names, and the seeds an expert of that name may have.
pub(crate) type Committed = BTreeMap<String, BTreeSet<u64>>;

/// Not a test of its own: what the processes started by the other tests do. Says `done NAME SEED`
/// after each thing that was committed.
#[test]
fn worker() {
    let Ok(job) = std::env::var(JOB) else {
        return;
    };
    let words: Vec<&str> = job.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let uri = words[1];
    // An error is said as the command would say it.
    let library = || match Library::create(uri) {
        Ok(library) => library,
        Err(error) => panic!("{}", error.chain()),
    };
    match words[0] {
        // add URI PREFIX SEED COUNT TOGETHER
        "add" => {
            let (library, seed, together) = (library(), number(3), number(5));
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
        // copy URI FROM
        "copy" => {
            let from = Library::open(words[2]).unwrap();
            from.copy_to(&library()).unwrap();
        }
        "derive" => {
            lyceum::transform::arrow(&library()).unwrap();
        }
        // remove URI PREFIX COUNT
        "remove" => {
            let library = library();
            let names = library.names().unwrap().into_iter();
            let names = names.filter(|name| name.as_str().starts_with(words[2]));
            let mut batch = library.batch().unwrap();
            names
                .take(number(3) as usize)
                .for_each(|name| batch.remove(&name));
            batch.commit().unwrap();
        }
        "purge" => {
            library().purge(Duration::ZERO, false).unwrap();
        }
        // sound URI FILE
        "sound" => {
            let text = std::fs::read(words[2]).unwrap();
            sound(uri, &serde_json::from_slice(&text).unwrap());
        }
        // list URI
        "list" => match Library::open(uri).and_then(|library| library.experts()) {
            Ok(experts) => println!("\nlisted {}", experts.len()),
            Err(error) => panic!("{}", error.chain()),
        },
        // check URI
        "check" => {
            let found = Library::open(uri)
                .and_then(|library| lyceum::check::check(&library, None))
                .unwrap_or_else(|error| panic!("{}", error.chain()));
            assert!(found.problems.is_empty(), "{}", found.problems.join("\n"));
            println!(
                "\nchecked {} objects {} bytes",
                found.objects.unwrap(),
                found.bytes.unwrap()
            );
        }
        // create URI
        "create" => {
            library();
        }
        "none" => {}
        "entries" => {
            let found = Library::open(uri).unwrap().entries().unwrap().len();
            println!("\nlisted {found}");
        }
        // show URI NAME
        "show" => {
            let name = Name::new(words[2]).unwrap();
            Library::open(uri).unwrap().expert(&name).unwrap();
        }
        "laws" => store_laws::obey(uri),
        other => panic!("{other}"),
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        println!("peak {}", peak.unwrap_or_default().trim());
    }
}

/// Checks the library at `uri` and says its version and what is unreferenced.
fn sound(uri: &str, committed: &Committed) {
    let library = Library::open(uri).unwrap();
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
    let single = library.history(usize::MAX).unwrap();
    let single = single.iter().filter(|m| m.changed == 1).count();
    let (version, waste) = (library.version(), checked.unreferenced);
    println!("\ndone version {version}\ndone unreferenced {waste}");
    println!("done experts {}\ndone single {single}", held.len());
}

/// The result of checking the library at `uri` in a process of its own.
pub(crate) fn checked(work: &Work, uri: &str, committed: &Committed) -> BTreeMap<String, u64> {
    let file = work.home().join("committed.json");
    std::fs::write(&file, serde_json::to_vec(committed).unwrap()).unwrap();
    let told = work.done(&format!("sound {uri} {}", file.display()));
    let done = |line: &str| {
        let (what, number) = line.strip_prefix("done ")?.split_once(' ')?;
        Some((what.to_owned(), number.parse().ok()?))
    };
    told.lines().filter_map(done).collect()
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

/// Kills `kills` writers of the library at `uri` at random moments up to `longest` after their
/// start, sooner where writers have been done before that: machines differ.
fn killed_at_random(uri: &str, vars: &Vars, kills: u64, longest: Duration) {
    let work = Work::new(vars);
    let source = work.home().join("from").display().to_string();
    work.done(&format!("add {source} copied 1 200 200"));
    work.done(&format!("add {uri} first 1 1 1"));
    let mut committed = Committed::from([("first0".into(), BTreeSet::from([1]))]);
    let mut rng = Rng::new(11);
    let (mut killed, mut last, mut round) = (0, 0, 0);
    let mut most = longest;
    while killed < kills {
        round += 1;
        assert!(
            round < 10 * kills,
            "only {killed} of {round} were killed in time"
        );
        let job = match round % 5 {
            0 => format!("add {uri} e {round} 40 1"),
            1 => format!("copy {uri} {source}"),
            2 => format!("add {uri} e {round} 40 4"),
            3 => format!("derive {uri}"),
            // Something to copy and derive again.
            _ => {
                work.done(&format!("remove {uri} copied 120"));
                continue;
            }
        };
        let mut child = work.start(&job);
        let moment = rng.below(most.as_micros() as usize) as u64;
        std::thread::sleep(Duration::from_micros(4000 + moment));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
            most = longest.min(most * 5 / 4);
        } else {
            most = most * 2 / 3 + Duration::from_millis(1);
        }
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
        let version = checked(&work, uri, &committed)["version"];
        assert!(version >= last);
        last = version;
    }
    work.done(&format!("purge {uri}"));
    assert_eq!(checked(&work, uri, &committed)["unreferenced"], 0);
    println!("{uri}: sound after {killed} kills, at version {last}");
}

fn local_killed(kills: u64) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lib");
    let uri = dir.to_str().unwrap();
    killed_at_random(uri, &Vars::new(), kills, Duration::from_millis(120));
    folders_follow(&dir, &Library::open(uri).unwrap());
}

/// Remote writers take longer to begin.
const REMOTE: Duration = Duration::from_millis(400);

#[test]
fn writers_killed_at_random_lose_nothing() {
    local_killed(12);
}

#[test]
#[ignore = "minutes: 200 kills"]
fn writers_killed_at_random_lose_nothing_200() {
    local_killed(200);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn writers_of_a_hub_killed_at_random_lose_nothing() {
    let (place, _hub) = Backend::hub();
    killed_at_random(&place.uri, &place.vars, 6, REMOTE);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn writers_of_a_bucket_killed_at_random_lose_nothing() {
    let (place, _s3) = Backend::s3();
    killed_at_random(&place.uri, &place.vars, 6, REMOTE);
}

#[test]
#[ignore = "minutes: 200 kills each on a hub, two buckets, moto and Azurite"]
fn writers_of_remote_stores_killed_at_random_lose_nothing_200() {
    on_remote_stores(|place| killed_at_random(&place.uri, &place.vars, 200, REMOTE));
}

/// Does `work` on a hub, two buckets, moto and Azurite.
fn on_remote_stores(work: impl Fn(&Backend)) {
    let (hub, _hub) = Backend::hub();
    let (s3, _s3) = Backend::s3();
    let (gcs, _gcs) = Backend::gcs();
    let places = [
        Some(hub),
        Some(s3),
        Some(gcs),
        Backend::moto(),
        Backend::azurite(),
    ];
    for place in places.into_iter().flatten() {
        work(&place);
    }
}

/// Several processes add to the library at `uri` at once; how long that took.
fn many_writers(uri: &str, vars: &Vars, processes: usize, each: usize) -> Duration {
    let work = Work::new(vars);
    let begun = Instant::now();
    let workers: Vec<_> = (0..processes)
        .map(|p| work.start(&format!("add {uri} p{p}-e {p} {each} 1")))
        .collect();
    let mut committed = Committed::new();
    for (p, mut worker) in workers.into_iter().enumerate() {
        let done = said(&mut worker);
        let output = worker.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(done.len(), each);
        for (name, seed) in done {
            assert_eq!(seed, p as u64);
            committed.insert(name, BTreeSet::from([seed]));
        }
    }
    let elapsed = begun.elapsed();
    let found = checked(&work, uri, &committed);
    let all = (processes * each) as u64;
    // One version per add: none was lost, none repeated.
    assert_eq!(
        (found["experts"], found["version"], found["single"]),
        (all, all, all)
    );
    elapsed
}

#[test]
fn eight_processes_add_at_once() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lib");
    let uri = dir.to_str().unwrap();
    many_writers(uri, &Vars::new(), 8, 10);
    folders_follow(&dir, &Library::open(uri).unwrap());
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn eight_processes_add_to_a_hub_at_once() {
    let (place, hub) = Backend::hub();
    many_writers(&place.uri, &place.vars, 8, 5);
    // The folders PEFT loads changed with every version.
    let files = hub.files("tester/lib");
    for name in ["p0-e0", "p7-e4"] {
        for file in [
            "adapter_config.json",
            "adapter_model.safetensors",
            "card.json",
        ] {
            assert!(
                files.contains_key(&format!("experts/{name}/{file}")),
                "{name}/{file}"
            );
        }
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn eight_processes_add_to_a_bucket_at_once() {
    let (place, _s3) = Backend::s3();
    many_writers(&place.uri, &place.vars, 8, 5);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn eight_processes_add_to_moto_and_azurite_at_once() {
    for place in [Backend::moto(), Backend::azurite()].into_iter().flatten() {
        many_writers(&place.uri, &place.vars, 8, 3);
    }
}

#[test]
#[ignore = "minutes: 1,000 experts by 8 processes on each store"]
fn eight_processes_add_125_each_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("lib").display().to_string();
    println!("local: {:?}", many_writers(&local, &Vars::new(), 8, 125));
    on_remote_stores(|place| {
        let took = many_writers(&place.uri, &place.vars, 8, 125);
        println!("{}: {took:?}", place.uri);
    });
}
