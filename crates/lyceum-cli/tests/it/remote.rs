//! Libraries, bases and data on remote stores, as a user meets them.

use std::path::Path;
use std::process::{Command, Output};

use crate::command::{Sandbox, read_json};
use crate::servers::foreign;
use crate::servers::hub::{Hub, TOKEN};
use crate::servers::s3::{S3, SECRET};
use crate::servers::{self, Vars};

/// `line` in `place`, which finds servers by `vars`.
fn lyceum(place: &Sandbox, vars: &Vars, line: &str) -> Output {
    let mut command = place.command(line);
    settle(&mut command, place, vars);
    let output = command.output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(
            !text.contains(TOKEN) && !text.contains(SECRET),
            "{line}: {text}"
        );
    }
    output
}

fn settle(command: &mut Command, place: &Sandbox, vars: &Vars) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let worlds = [
            "AWS_",
            "AZUR",
            "GOOGLE_",
            "STORAGE_",
            "HF_",
            "LYCEUM_CACHE",
            "XDG_",
        ];
        if worlds.iter().any(|world| name.starts_with(world)) {
            command.env_remove(name);
        }
    }
    command.env("HOME", place.path("home"));
    command.envs(vars.iter().map(|(name, value)| (*name, value)));
}

fn ok(place: &Sandbox, vars: &Vars, line: &str) -> String {
    let output = lyceum(place, vars, line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lyceum {line}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn complaint(place: &Sandbox, vars: &Vars, line: &str) -> String {
    let output = lyceum(place, vars, line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    assert!((2..=5).contains(&code), "lyceum {line}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

fn hub() -> (Hub, Vars) {
    let hub = Hub::start();
    let vars = servers::hub_vars(&hub.server.url, TOKEN);
    (hub, vars)
}

/// Commits the files of `dir` to the repository `id`, below `prefix`.
fn fill(hub: &Hub, id: &str, dir: &Path) {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    hub.fill(id, &files);
}

/// The rows of the report of a run of the recipe, its libraries at `library`.
fn rows(place: &Sandbox, vars: &Vars, library: Option<&str>, out: &str) -> serde_json::Value {
    let recipe = std::fs::read_to_string(place.path("recipe.toml")).unwrap();
    let recipe = match library {
        Some(uri) => recipe.replacen("seed", &format!("library = \"{uri}\"\nseed"), 1),
        None => recipe,
    };
    let name = format!("{out}.toml");
    std::fs::write(place.path(&name), recipe).unwrap();
    ok(place, vars, &format!("run {name} --out {out}"));
    let report = read_json(&place.path(out).join("report.json"));
    assert!(report["rows"].as_array().unwrap().len() > 5);
    report["rows"].clone()
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_recipe_runs_with_its_libraries_anywhere() {
    let place = Sandbox::new();
    let local = rows(&place, &Vars::new(), None, "local");
    let s3 = S3::start();
    let bucket = servers::s3_vars(&s3.server.url, SECRET);
    assert_eq!(rows(&place, &bucket, Some("s3://lib/run"), "s3"), local);
    let (_hub, vars) = hub();
    assert_eq!(rows(&place, &vars, Some("hf://tester/run"), "hf"), local);
    // Again, and everything is already there.
    let again = ok(&place, &vars, "run hf.toml --out hf");
    assert!(again.contains("report.md"), "{again}");
    let listed = ok(&place, &vars, "list hf://tester/run/private");
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let mut places = vec![];
    if let Some(moto) = foreign::moto() {
        let url = format!("http://127.0.0.1:{}", moto.port);
        places.push((
            servers::s3_vars(&url, "testtest"),
            "s3://lib/run",
            "moto",
            moto,
        ));
    }
    if let Some(azurite) = foreign::azurite() {
        let uri = "az://devstoreaccount1/lib/run";
        places.push((servers::azure_vars(azurite.port), uri, "azurite", azurite));
    }
    for (vars, uri, out, _running) in &places {
        assert_eq!(rows(&place, vars, Some(uri), out), local);
    }
}

const README: &[u8] =
    b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    \
                        path: data/*.jsonl\n---\n";

/// A data set of a hub is what its clone on this machine is, whatever describes its files, and the
/// same is said to be left out.
#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn data_of_a_hub_are_those_of_their_clone() {
    let place = Sandbox::new();
    let (hub, vars) = hub();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum/tests/golden/data");
    let held = |path: &str| (path.to_owned(), std::fs::read(golden.join(path)).unwrap());
    let mut saved = vec![
        held("saved/dataset_dict.json"),
        held("saved/train/state.json"),
        held("saved/train/data-00000-of-00002.arrow"),
        held("saved/train/data-00001-of-00002.arrow"),
        held("saved/test/state.json"),
        held("saved/test/data-00000-of-00001.arrow"),
    ];
    saved.push(("saved/old/x.arrow".into(), saved[5].1.clone()));
    let named = |path: &str, from: &str| (path.to_owned(), held(from).1);
    let readme = "\u{feff}---\r\nconfigs:\r\n- config_name: small\r\n  data_dir: small\r\n---\r\n";
    let described = vec![
        ("README.md".to_owned(), readme.as_bytes().to_vec()),
        named("small/Test-0.PARQUET", "brotli.parquet"),
        named("other/train.parquet", "gzip.parquet"),
        ("small/rows.csv".to_owned(), b"a,b".to_vec()),
    ];
    for (name, files, note) in [
        ("saved", saved, "old/x.arrow"),
        ("described", described, "other/train.parquet"),
    ] {
        let below = |path: &str| path.strip_prefix("saved/").unwrap_or(path).to_owned();
        let files: Vec<(String, Vec<u8>)> = files
            .into_iter()
            .map(|(path, bytes)| (below(&path), bytes))
            .collect();
        for (path, bytes) in &files {
            let path = place.path(&format!("{name}/{path}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let all: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (p.as_str(), &b[..])).collect();
        hub.fill(&format!("datasets/owner/{name}"), &all);
        let eval = |data: &str| {
            let line = format!("eval --base base --data {data} --max-new 1");
            let output = lyceum(&place, &vars, &line);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{stderr}");
            assert!(stderr.contains(note), "{stderr}");
            String::from_utf8(output.stdout).unwrap()
        };
        let near = eval(name);
        let mean = near.lines().last().unwrap();
        assert!(mean.starts_with("mean") && mean.ends_with(" 4"), "{near}");
        assert_eq!(near, eval(&format!("hf://datasets/owner/{name}")));
    }
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_base_and_data_come_from_the_hub_and_then_from_the_cache() {
    let place = Sandbox::new();
    let (hub, vars) = hub();
    fill(&hub, "owner/tiny", &place.path("base"));
    let rows = std::fs::read(place.path("rows.jsonl")).unwrap();
    let files: [(&str, &[u8]); 3] = [
        ("README.md", README),
        ("data/rows.jsonl", &rows),
        ("other/rows.jsonl", b"not to be read"),
    ];
    hub.fill("datasets/owner/rows", &files);
    let train = |base: &str, data: &str, library: &str| {
        format!(
            "train --base {base} --data {data} --each-task --library {library} --rank 2 --epochs 1"
        )
    };
    let far = train("hf://owner/tiny", "hf://datasets/owner/rows", "far");
    ok(&place, &vars, &train("base", "rows.jsonl", "near"));
    ok(&place, &vars, &far);
    let weights = |library: &str, vars: &Vars| {
        let listed = ok(&place, vars, &format!("list {library} --format json"));
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let cards = listed.as_array().unwrap().iter();
        cards
            .map(|card| card["weights"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(weights("near", &vars).len(), 3);
    assert_eq!(weights("near", &vars), weights("far", &vars));
    let shown = ok(&place, &vars, "base show hf://owner/tiny");
    assert!(shown.starts_with("tiny"), "{shown}");
    // Without the network, and without a question asked.
    hub.asked();
    let again = far.replace("--library far", "--library far-again");
    ok(&place, &vars, &format!("{again} --offline"));
    assert_eq!(weights("near", &vars), weights("far-again", &vars));
    let said = complaint(&place, &vars, "base show hf://owner/other --offline");
    assert!(said.contains("not in the cache"), "{said}");
    assert_eq!(hub.asked(), Vec::<String>::new());
    // The cache is shown and given up.
    let shown = ok(&place, &vars, "cache show");
    assert!(shown.contains("repositories as folders"), "{shown}");
    ok(&place, &vars, "cache clear");
    let said = complaint(&place, &vars, "base show hf://owner/tiny --offline");
    assert!(said.contains("not in the cache"), "{said}");
    ok(&place, &vars, "cache limit 1M");
    let shown = ok(&place, &vars, "cache show --format json");
    assert!(shown.contains("1000000"), "{shown}");
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn what_arrives_from_a_hub_otherwise_than_listed_is_refused() {
    let place = Sandbox::new();
    let (hub, vars) = hub();
    fill(&hub, "owner/tiny", &place.path("base"));
    let other = |n: usize| crate::servers::http::Response::new(200, vec![b'x'; n]);
    for (file, size) in [("config.json", 10), ("model.safetensors", 100_000_000)] {
        hub.fault(&format!("/{file}"), 100, other(size));
        let said = complaint(&place, &vars, "base show hf://owner/tiny");
        assert!(said.contains("is not what the hub lists"), "{said}");
        hub.calm();
    }
    // An error page is no file, now or later.
    hub.fault(
        "GET /owner/tiny/resolve",
        1,
        crate::servers::http::Response::new(403, "denied"),
    );
    let said = complaint(&place, &vars, "base show hf://owner/tiny");
    assert!(said.contains("access is denied"), "{said}");
    // A download that breaks off goes on where it was.
    let weights = std::fs::read(place.path("base/model.safetensors")).unwrap();
    let cut = crate::servers::http::Response {
        status: 200,
        cut: Some(weights.len() / 2),
        body: weights,
        ..Default::default()
    };
    hub.fault("/model.safetensors", 1, cut);
    hub.asked();
    ok(&place, &vars, "base show hf://owner/tiny");
    let asked = hub.asked();
    let fetched = asked
        .iter()
        .filter(|line| line.contains("/model.safetensors"));
    assert_eq!(fetched.count(), 2);
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn adapters_and_mttl_libraries_are_read_where_they_are() {
    let place = Sandbox::new();
    let (hub, vars) = hub();
    ok(
        &place,
        &vars,
        "train --base base --data rows.jsonl --each-task --library hf://tester/mine --rank 2 \
         --epochs 1",
    );
    // What PEFT loads from the hub is the expert, byte for byte.
    ok(&place, &vars, "copy hf://tester/mine mine");
    let files = hub.files("tester/mine");
    let mut adapter = Vec::new();
    let listed = std::fs::read_dir(place.path("mine/experts")).unwrap();
    let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    assert_eq!(names.len(), 3);
    for name in &names {
        for file in [
            "adapter_config.json",
            "adapter_model.safetensors",
            "card.json",
        ] {
            let local = std::fs::read(place.path("mine/experts").join(name).join(file)).unwrap();
            assert_eq!(files[&format!("experts/{name}/{file}")], local);
            if *name == names[0] && file != "card.json" {
                adapter.push((file, local));
            }
        }
    }
    let adapter: Vec<(&str, &[u8])> = adapter.iter().map(|(n, b)| (*n, &b[..])).collect();
    hub.fill("somebody/adapter", &adapter);
    let listed = ok(&place, &vars, "list hf://somebody/adapter");
    assert!(listed.contains("adapter"), "{listed}");
    ok(
        &place,
        &vars,
        "import hf://somebody/adapter taken --base base",
    );
    ok(&place, &vars, "show taken adapter");
    let golden = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../lyceum/tests/golden/mttl-library"
    );
    fill(&hub, "somebody/mttl", Path::new(golden));
    let local = ok(&place, &vars, &format!("list {golden} --format json"));
    let far = ok(&place, &vars, "list hf://somebody/mttl --format json");
    let cards = |text: &str| {
        let cards: serde_json::Value = serde_json::from_str(text).unwrap();
        let cards = cards.as_array().unwrap().iter();
        cards
            .map(|card| card["weights"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(cards(&local), cards(&far));
    let said = complaint(&place, &vars, "remove hf://somebody/mttl color_of");
    assert!(said.contains("reading only"), "{said}");
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn the_official_client_and_lyceum_read_what_the_other_wrote() {
    let Some(python) = foreign::installed("python") else {
        return;
    };
    let place = Sandbox::new();
    let (_hub, vars) = hub();
    ok(
        &place,
        &vars,
        "train --base base --data rows.jsonl --each-task --library hf://tester/mine --rank 2 \
         --epochs 1",
    );
    ok(&place, &vars, "copy hf://tester/mine mine");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hub_client.py");
    let mut command = Command::new(python);
    settle(&mut command, &place, &vars);
    let output = command
        .arg(script)
        .current_dir(place.path(""))
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        // The hub of these tests takes large files as LFS does.
        .env("HF_HUB_DISABLE_XET", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let shown = ok(&place, &vars, "base show hf://tester/uploaded");
    assert!(shown.starts_with("uploaded"), "{shown}");
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn a_base_is_read_from_olah() {
    let place = Sandbox::new();
    let repo = place.path("mirrors/models/owner/tiny");
    std::fs::create_dir_all(&repo).unwrap();
    for entry in std::fs::read_dir(place.path("base")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, repo.join(path.file_name().unwrap())).unwrap();
    }
    let Some(olah) = foreign::olah(&place.path("mirrors")) else {
        return;
    };
    for line in [
        "init -q -b main .",
        "add .",
        "-c user.name=t -c user.email=t@t commit -q -m files",
    ] {
        let git = Command::new("git")
            .args(line.split(' '))
            .current_dir(&repo)
            .output()
            .unwrap();
        assert!(
            git.status.success(),
            "{}",
            String::from_utf8_lossy(&git.stderr)
        );
    }
    let vars = vec![("HF_ENDPOINT", format!("http://127.0.0.1:{}", olah.port))];
    let near = ok(&place, &vars, "base show base --format json");
    let far = ok(&place, &vars, "base show hf://owner/tiny --format json");
    let fingerprint = |text: &str| {
        let shown: serde_json::Value = serde_json::from_str(text).unwrap();
        shown["fingerprint"].clone()
    };
    assert_eq!(fingerprint(&near), fingerprint(&far));
}

#[test]
#[cfg_attr(not(feature = "remote"), ignore = "needs stores on a network")]
fn places_that_cannot_be_written_say_so() {
    let place = Sandbox::new();
    let (hub, vars) = hub();
    let train = "train --base base --data rows.jsonl --each-task --rank 2 --epochs 1 --library";
    ok(&place, &vars, &format!("{train} mine"));
    let said = complaint(&place, &vars, "copy mine /sys/lyceum");
    assert!(said.contains("/sys/lyceum"), "{said}");
    // A token that may only read.
    ok(&place, &vars, "copy mine hf://tester/mine");
    let denied = crate::servers::http::Response::new(403, "you may not");
    hub.fault("/commit/", 100, denied);
    let said = complaint(&place, &vars, "remove hf://tester/mine task_0");
    assert!(said.contains("access is denied (403)"), "{said}");
    hub.calm();
    ok(&place, &vars, "check hf://tester/mine --base base");
}
