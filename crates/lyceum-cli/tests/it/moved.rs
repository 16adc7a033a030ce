//! Saved models that are used from elsewhere, moved, or changed where they lie.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::bad_input::{refused, trained};
use crate::command::{Sandbox, read_json};

fn saved() -> (Sandbox, Value) {
    let place = trained();
    place.ok("derive lib arrow");
    place.ok("save --base base --library lib --router arrow --top-k 2 routed");
    let rows = place.json("eval --model routed --eval-task questions.jsonl");
    (place, rows)
}

/// `eval` of the model in `dir`, run in the folder `from`.
fn eval(place: &Sandbox, dir: &Path, from: &Path, more: &str) -> Output {
    let line = format!("eval --format json --eval-task questions.jsonl {more}");
    let line = line.replace(
        "questions.jsonl",
        place.path("questions.jsonl").to_str().unwrap(),
    );
    let mut command = place.command(&line);
    command.arg("--model").arg(dir).current_dir(from);
    command.output().unwrap()
}

/// Its rows but for the folder's name.
fn rows(output: &Output) -> Vec<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    figures(&rows)
}

fn figures(rows: &Value) -> Vec<Value> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["mean"].clone()).collect()
}

#[test]
fn a_saved_model_opens_from_anywhere_and_can_be_moved() {
    let (place, want) = saved();
    let want = figures(&want);
    let model = read_json(&place.path("routed/model.json"));
    assert_eq!(model["base_path"], "../base");
    let elsewhere = tempfile::tempdir().unwrap();
    let from_there = |dir: &PathBuf, more: &str| eval(&place, dir, elsewhere.path(), more);
    let routed = place.path("routed");
    assert_eq!(rows(&from_there(&routed, "")), want);
    // The library it was saved from is not needed.
    std::fs::rename(place.path("lib"), place.path("gone")).unwrap();
    assert_eq!(rows(&from_there(&routed, "")), want);
    // The model alone.
    let deep = place.path("some/where/deep");
    std::fs::create_dir_all(deep.parent().unwrap()).unwrap();
    std::fs::rename(&routed, &deep).unwrap();
    assert_eq!(rows(&from_there(&deep, "")), want);
    std::fs::rename(&deep, &routed).unwrap();
    // Both together.
    let moved = place.path("moved");
    std::fs::create_dir_all(&moved).unwrap();
    for name in ["base", "routed"] {
        std::fs::rename(place.path(name), moved.join(name)).unwrap();
    }
    assert_eq!(rows(&from_there(&moved.join("routed"), "")), want);
    // The base alone: it is to be said where it is.
    std::fs::rename(moved.join("base"), moved.join("renamed")).unwrap();
    let output = from_there(&moved.join("routed"), "");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in ["model.json", "--base", "`base`", "../base"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let base = format!("--base {}", moved.join("renamed").display());
    assert_eq!(rows(&from_there(&moved.join("routed"), &base)), want);
    // Another base is none of its.
    crate::tiny::write_base(&moved.join("base"), 2);
    let output = from_there(&moved.join("routed"), "");
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["model.json", "--base", "was saved over the base"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn what_happens_to_its_library_later_does_not_change_it() {
    let (place, want) = saved();
    let line = "eval --model routed --eval-task questions.jsonl";
    place.ok("remove routed task_0");
    assert_eq!(place.json("list routed").as_array().unwrap().len(), 2);
    assert_eq!(place.json(line), want);
    place.ok("restore routed task_0");
    // The version that was saved may go, as long as its experts are still there.
    place.ok("purge routed --grace 0s --yes");
    assert_eq!(place.json(line), want);
    place.ok("remove routed task_0");
    place.ok("purge routed --grace 0s --yes");
    refused(
        &place,
        line,
        &["routed/model.json", "version", "save the model again"],
    );
    // A folder with other experts is no place for another model.
    place.ok("copy lib two task_1 task_2");
    place.ok("save --base base --library lib --router arrow whole");
    let save = "save --base base --library two --router arrow";
    refused(
        &place,
        &format!("{save} whole"),
        &["whole", "task_0", "another folder"],
    );
    place.ok(&format!("{save} fresh"));
}

#[test]
fn models_saved_before_there_were_versions_in_them_open() {
    let (place, want) = saved();
    let path = place.path("routed/model.json");
    let mut model = read_json(&path);
    let fields = model.as_object_mut().unwrap();
    fields.remove("library");
    fields.remove("base_absolute");
    fields.insert("format".into(), 1.into());
    fields.insert("base_path".into(), "base".into());
    std::fs::write(&path, model.to_string()).unwrap();
    assert_eq!(
        place.json("eval --model routed --eval-task questions.jsonl"),
        want
    );
    model["format"] = 3.into();
    std::fs::write(&path, model.to_string()).unwrap();
    refused(
        &place,
        "generate --model routed --prompt x",
        &["routed/model.json", "format"],
    );
    model["format"] = 1.into();
    model["spec"]["top_k"] = 0.into();
    std::fs::write(&path, model.to_string()).unwrap();
    refused(
        &place,
        "generate --model routed --prompt x",
        &["routed/model.json", "top_k"],
    );
}
