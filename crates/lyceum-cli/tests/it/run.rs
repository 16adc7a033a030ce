//! A whole recipe: what it leaves, that it repeats bit by bit, and that a killed one continues.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Place, read_json};

/// A report without what may differ between equal runs: times, memory, threads, what was reused.
fn comparable(mut report: Value) -> Value {
    report["provenance"]["threads"] = Value::Null;
    for stage in report["stages"].as_array_mut().unwrap() {
        for field in ["seconds", "tokens", "peak_memory_mib", "resumed"] {
            stage[field] = Value::Null;
        }
    }
    report
}

#[test]
fn a_recipe_leaves_a_whole_report() {
    let place = Place::new();
    place.ok("run recipe.toml --out out");
    let report = read_json(&place.path("out/report.json"));
    let rows = report["rows"].as_array().unwrap();
    for (method, library) in [
        ("base", ""),
        ("oracle", "private"),
        ("oracle", "mbc"),
        ("uniform", "mbc"),
        ("arrow", "private"),
        ("phatgoose", "mbc"),
    ] {
        let row = rows.iter().find(|r| {
            r["method"] == method
                && r["library"] == library
                && r["task"] == "mean"
                && r["metric"] == "rouge-l"
        });
        let row = row.unwrap_or_else(|| panic!("no row for {method} {library}"));
        assert_eq!(row["n"], 6);
        assert!(row["stderr"].is_number());
    }
    assert!(
        rows.iter()
            .any(|r| r["task"] == "questions" && r["metric"] == "acc_norm")
    );
    let provenance = &report["provenance"];
    for field in [
        "seed",
        "device",
        "precision",
        "base_fingerprint",
        "libraries",
        "versions",
    ] {
        assert!(!provenance[field].is_null(), "{field}");
    }
    assert_eq!(
        report["similarity"][0]["cosines"].as_array().unwrap().len(),
        3
    );
    let clusters = read_json(&place.path("out/mbc_clusters.json"));
    assert_eq!(clusters.as_object().unwrap().len(), 2);
    let page = std::fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("http://") | page.contains("w3.org"));
    for chart in ["rouge-l", "similarity-private", "training-loss"] {
        let file = |ending: &str| place.path(&format!("out/plots/{chart}.{ending}"));
        assert!(
            file("svg").exists() && file("png").exists(),
            "{chart}: {:?}",
            std::fs::read_dir(place.path("out/plots"))
                .unwrap()
                .collect::<Vec<_>>()
        );
    }
    assert!(place.path("out/report.md").exists());
    assert!(
        place
            .path("out/predictions/arrow-k2-private-outputs.jsonl")
            .exists()
    );
    place.ok("plot out/report.json --out again");
    let again = std::fs::read(place.path("again/report.html")).unwrap();
    assert_eq!(page.as_bytes(), again);
}

#[test]
fn equal_seeds_give_equal_reports_whatever_the_threads() {
    let place = Place::new();
    place.ok("run recipe.toml --out one --threads 1");
    place.ok("run recipe.toml --out two --threads 2");
    let report = |name: &str| comparable(read_json(&place.path(name)));
    assert_eq!(report("one/report.json"), report("two/report.json"));
    place.ok("run recipe.toml --out other --seed 8");
    assert_ne!(report("one/report.json"), report("other/report.json"));

    place.ok("plot one/report.json other/report.json --out mean");
    let row = |name: &str| read_json(&place.path(name))["rows"][0].clone();
    let value = |name: &str, field: &str| row(name)[field].as_f64().unwrap();
    let (one, other) = (
        value("one/report.json", "mean"),
        value("other/report.json", "mean"),
    );
    assert!((value("mean/report.json", "mean") - (one + other) / 2.0).abs() < 1e-9);
    let error = (one - other).abs() / 2.0;
    assert!((value("mean/report.json", "stderr") - error).abs() < 1e-9);
    assert_eq!(row("mean/report.json")["n"], 2);
    let complaint = place.complaint("plot one/report.json two/report.json --out mean");
    assert!(complaint.contains("another seed"), "{complaint}");
    let complaint = place.complaint("plot one/report.json other/report.json");
    assert!(complaint.contains("--out"), "{complaint}");
}

#[test]
fn a_killed_run_continues_to_the_same_report() {
    let place = Place::new();
    place.ok("run recipe.toml --out whole");
    let mut survived = 0;
    for milliseconds in [120, 250, 500, 900] {
        let mut child = place
            .command("run recipe.toml --out cut")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        survived += usize::from(child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = place.output("run recipe.toml --out cut");
    assert!(output.status.success());
    let report = |name: &str| comparable(read_json(&place.path(name)));
    assert_eq!(
        report("whole/report.json"),
        report("cut/report.json"),
        "{survived} were not cut"
    );
    // A finished run has nothing left to do, and says so.
    let output = place.output("run recipe.toml --out cut");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("train private experts: already there, reused"),
        "{stderr}"
    );
    assert!(
        stderr.contains("rouge-l base: already there, reused"),
        "{stderr}"
    );
}
