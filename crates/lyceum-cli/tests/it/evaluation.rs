//! `eval`: its errors, its files and their contents.

use crate::bad_input::{refused, trained};
use crate::command::{Sandbox, read_json};

#[test]
fn flags_without_what_they_belong_to() {
    let place = trained();
    let routers = ["--router", "oracle", "uniform", "arrow", "phatgoose"];
    for line in ["eval --data rows.jsonl", "generate --prompt x", "save out"] {
        let line = format!("{line} --base base");
        refused(&place, &format!("{line} --library lib"), &routers);
        refused(
            &place,
            &format!("{line} --top-k 2"),
            &["--top-k", "--router arrow"],
        );
        refused(
            &place,
            &format!("{line} --router-temperature 2"),
            &["--router-temperature", "--router arrow"],
        );
        refused(
            &place,
            &format!("{line} --mixing factors"),
            &["--mixing", "--router"],
        );
        let uniform = format!("{line} --library lib --router uniform");
        refused(
            &place,
            &format!("{uniform} --top-k all"),
            &["--top-k", "uniform", "arrow"],
        );
        refused(
            &place,
            &format!("{uniform} --router-temperature 2"),
            &["--router-temperature", "uniform", "phatgoose"],
        );
    }
    place.ok("save --base base --library lib --router uniform routed");
    for stray in [
        "--top-k 2",
        "--mixing outputs",
        "--router arrow",
        "--router-temperature 1",
    ] {
        let line = format!("eval --base base --model routed --data rows.jsonl {stray}");
        refused(
            &place,
            &line,
            &["--model", stray.split(' ').next().unwrap()],
        );
    }
    refused(&place, "save --model routed out", &["--model"]);
    refused(
        &place,
        "save --base base out",
        &["nothing to save", "--router"],
    );
    // A library the base has no use for is said to have none.
    let output = place.output("eval --base base --router base --library lib --data rows.jsonl");
    assert!(output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("lib is not read"), "{stderr}");
}

#[test]
#[cfg_attr(not(feature = "assets"), ignore = "needs the feature `assets`")]
fn the_same_word_means_the_same_everywhere() {
    let place = trained();
    place.ok("derive lib arrow");
    let arrow = "--base base --library lib --router arrow --top-k 2";
    // A temperature is the router's only where it is called so.
    refused(
        &place,
        &format!("generate {arrow} --prompt x --temperature 0.7"),
        &["--temperature", "--router-temperature"],
    );
    let eval = |flag: &str| place.json(&format!("eval {arrow} --data rows.jsonl {flag} 0.1"));
    let rows = eval("--router-temperature");
    assert_eq!(rows, eval("--temperature"));
    assert_eq!(rows[0]["name"], "arrow k=2 t=0.1");
    let spec = serde_json::json!({ "router": "arrow", "top_k": 2, "temperature": 0.1 });
    assert_eq!(rows[0]["spec"], spec);

    // The oracle is told, and nobody else is.
    let oracle = "generate --base base --library lib --router oracle --prompt x --max-new 2";
    for flag in ["--task-name", "--task"] {
        place.ok(&format!("{oracle} {flag} task_1"));
    }
    refused(&place, oracle, &["--task-name"]);
    refused(
        &place,
        &format!("{oracle} --task-name task_9"),
        &["task_9", "did you mean task_"],
    );
    let line = format!("generate {arrow} --prompt x --task-name task_1");
    refused(&place, &line, &["--task-name", "arrow"]);
    let logits = "logits --base base --library lib --router oracle --out o --input i";
    refused(&place, logits, &["oracle", "--task-names"]);

    // Tasks are filtered, questions are answered.
    let eval = "eval --base base";
    let direct = place.json(&format!("{eval} --eval-task questions.jsonl"));
    assert_eq!(
        direct,
        place.json(&format!("{eval} --task questions.jsonl"))
    );
    assert_eq!(
        place.json(&format!("{eval} --eval-task arc_easy --limit 2"))[0]["task"],
        "arc-easy"
    );
    refused(
        &place,
        &format!("{eval} --eval-task boolq"),
        &["did you mean --tasks boolq"],
    );
    refused(
        &place,
        &format!("{eval} --eval-task arc-esy"),
        &["did you mean arc-easy"],
    );
    for set in ["arc-easy", "arc_easy"] {
        let line = format!("{eval} --data rows.jsonl --tasks {set}");
        refused(&place, &line, &["did you mean --eval-task arc-easy"]);
    }
    refused(
        &place,
        &format!("{eval} --library lib --router oracle --eval-task arc-easy"),
        &["oracle cannot be used with --eval-task arc-easy"],
    );
    for stray in [
        "--tasks task_0",
        "--max-new 3",
        "--max-input 9",
        "--split test",
        "--data d",
    ] {
        let line = format!("{eval} --eval-task questions.jsonl {stray}");
        refused(
            &place,
            &line,
            &["--eval-task", stray.split(' ').next().unwrap()],
        );
    }
    let names = |line: &str| place.json(line).as_array().unwrap().len();
    assert_eq!(
        (
            names("list lib --tasks task_1,task_2"),
            names("list lib --task task_1")
        ),
        (2, 1)
    );
}

#[test]
fn settings_of_gates_are_none_of_prototypes() {
    let place = trained();
    for flag in [
        "--steps 2",
        "--lr 1e-3",
        "--warmup 0.1",
        "--batch 2",
        "--seed 1",
    ] {
        let line = format!("derive lib arrow {flag}");
        refused(
            &place,
            &line,
            &[flag.split(' ').next().unwrap(), "arrow", "phatgoose"],
        );
    }
    let derive = "derive lib phatgoose --base base --data rows.jsonl";
    place.ok(&format!("{derive} --steps 2"));
    refused(&place, &format!("{derive} --steps 0"), &["step"]);
}

#[test]
fn nothing_is_measured_on_nothing() {
    let place = Sandbox::new();
    let eval = "eval --base base --data rows.jsonl";
    for flag in ["--limit", "--max-input", "--max-new"] {
        refused(&place, &format!("{eval} {flag} 0"), &[flag, "from 1"]);
    }
}

#[test]
fn the_place_for_results_is_tried_before_anything_is_computed() {
    let place = Sandbox::new();
    std::fs::write(place.path("file"), "kept").unwrap();
    // Nothing else is looked at: there is no such base.
    for line in ["eval --base nowhere", "run recipe.toml"] {
        refused(&place, &format!("{line} --out file"), &["--out file"]);
        refused(
            &place,
            &format!("{line} --out file/below"),
            &["--out file/below"],
        );
    }
    assert_eq!(std::fs::read_to_string(place.path("file")).unwrap(), "kept");
    // The report of a run is no earlier evaluation.
    place.ok("run recipe.toml --out out");
    let before = std::fs::read(place.path("out/report.json")).unwrap();
    refused(
        &place,
        "eval --base nowhere --out out",
        &["out/report.json", "choose another"],
    );
    assert_eq!(
        std::fs::read(place.path("out/report.json")).unwrap(),
        before
    );
}

#[cfg(unix)]
#[test]
fn figures_are_printed_whatever_happens_to_the_files() {
    let place = Sandbox::new();
    std::fs::create_dir_all(place.path("out/predictions.jsonl")).unwrap();
    let output = place.output("eval --base base --eval-task questions.jsonl --out out");
    assert_eq!(output.status.code(), Some(5));
    let (stdout, stderr) = (output.stdout, output.stderr);
    let (stdout, stderr) = [stdout, stderr]
        .map(|s| String::from_utf8(s).unwrap())
        .into();
    assert!(stdout.contains("acc_norm"), "{stdout}");
    assert!(stderr.contains("predictions.jsonl"), "{stderr}");
}

#[test]
#[cfg_attr(not(feature = "report"), ignore = "needs the feature `report`")]
fn a_report_says_what_was_evaluated() {
    let place = trained();
    place.ok("derive lib arrow");
    let line = "--base base --library lib --router arrow --top-k 2";
    place.ok(&format!("save {line} routed"));
    let data = "--data rows.jsonl --max-new 100 --max-input 16 --tasks task_0,task_1 --limit 3";
    let output = place.output(&format!("eval --model routed {data} --out out"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("4 of 4 inputs") && stderr.contains("64 new tokens"),
        "{stderr}"
    );
    let report = read_json(&place.path("out/report.json"));
    let (provenance, row) = (&report["provenance"], &report["rows"][0]);
    let spec = &provenance["spec"];
    for (field, value) in [
        ("router", "arrow".into()),
        ("top_k", 2.into()),
        ("temperature", 1.0.into()),
        ("mixing", "outputs".into()),
        ("model", "routed".into()),
        ("split", "test".into()),
        ("limit", 3.into()),
        ("max_new", 100.into()),
        ("max_input", 16.into()),
        ("tasks", serde_json::json!(["task_0", "task_1"])),
        ("experts", serde_json::json!(["task_0", "task_1", "task_2"])),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    assert_eq!(
        (&row["method"], &row["library"]),
        (&"arrow".into(), &"routed".into())
    );
    assert_eq!(row["name"], "arrow k=2");
    let source = |what: &str| {
        let sources = provenance["sources"].as_array().unwrap();
        sources.iter().find(|s| s["what"] == what).unwrap().clone()
    };
    let (library, data) = (source("library"), source("data"));
    assert_eq!(
        (&library["place"], &library["version"]),
        (&"routed".into(), &1.into())
    );
    assert_eq!(library["fingerprint"], provenance["libraries"]["routed"]);
    assert_eq!(data["place"], "rows.jsonl");
    assert_eq!(data["fingerprint"].as_str().unwrap().len(), 64);
    let cut = &provenance["cuts"][0];
    assert_eq!((&cut["cut"], &cut["rows"]), (&4.into(), &4.into()));
    assert_eq!(
        (&cut["max_new"], &cut["max_new_asked"]),
        (&64.into(), &100.into())
    );
    let command = provenance["command"].as_str().unwrap();
    assert!(
        command.starts_with("lyceum eval --model routed --data rows.jsonl"),
        "{command}"
    );
    assert!(provenance["date"].as_str().unwrap().ends_with('Z'));

    // Another evaluation leaves nothing of this one behind, and nothing else away.
    std::fs::write(place.path("out/plots/mine.svg"), "mine").unwrap();
    assert!(place.path("out/plots/rouge-l.svg").exists());
    place.ok("eval --model routed --eval-task questions.jsonl --out out");
    assert!(!place.path("out/plots/rouge-l.svg").exists());
    assert!(!place.path("out/plots/rouge-l.png").exists());
    assert!(place.path("out/plots/mine.svg").exists());
    assert!(place.path("out/plots/downstream-questions.svg").exists());
    let report = read_json(&place.path("out/report.json"));
    assert_eq!(report["provenance"]["spec"]["eval_task"], "questions");
    assert_eq!(
        report["provenance"]["sources"][1]["place"],
        "questions.jsonl"
    );

    // Experts that were chosen are named.
    let line = "--base base --library lib --experts task_1,task_0 --router uniform";
    place.ok(&format!(
        "eval {line} --data rows.jsonl --limit 1 --max-new 1 --out out"
    ));
    let report = read_json(&place.path("out/report.json"));
    let experts = &report["provenance"]["spec"]["experts"];
    assert_eq!(*experts, serde_json::json!(["task_0", "task_1"]));
}
