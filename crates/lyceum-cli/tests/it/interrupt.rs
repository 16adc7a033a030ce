//! Training that is interrupted: what is finished stays, the rest goes on where it was.
#![cfg(unix)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lyceum::Name;
use lyceum::library::Library;
use serde_json::{Value, json};

use crate::command::Sandbox;

const TRAIN: &str =
    "train --base base --data uneven.jsonl --each-task --rank 2 --batch 2 --library";

/// A place with one task that is finished after 2 steps and one that takes many.
fn place(rows: usize) -> Sandbox {
    let place = Sandbox::new();
    let mut text = String::new();
    for (task, rows) in [("quick", 4), ("slow", rows)] {
        for i in 0..rows {
            let row = json!({
                "source": format!("{task}: what comes after {i}?\nNumbers: {}", "x ".repeat(i % 9)),
                "target": format!("{} and more", i + 1), "task_name": task, "split": "train",
            });
            text += &format!("{row}\n");
        }
    }
    std::fs::write(place.path("uneven.jsonl"), text).unwrap();
    place
}

/// Starts `line` with signals as a terminal leaves them: whoever runs the tests in the background
/// ignores some, which the command would respect.
fn start(place: &Sandbox, line: &str) -> Child {
    let plain = place.command(line);
    let mut command = match cfg!(target_os = "linux") {
        true => Command::new("env"),
        false => Command::new(plain.get_program()),
    };
    if cfg!(target_os = "linux") {
        command.arg("--default-signal=INT,TERM,HUP");
        command.arg(plain.get_program());
    }
    command.args(plain.get_args());
    command.current_dir(place.path(""));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until `there` is true while `child` runs.
fn wait(child: &mut Child, there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        assert!(begun.elapsed() < Duration::from_secs(120), "never");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn names(place: &Sandbox, uri: &str) -> Vec<String> {
    let output = place.output(&format!("list {uri} --format json"));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let rows = rows.as_array().into_iter().flatten();
    let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
    rows.map(name).collect()
}

/// The cards of a library without when each was added.
fn cards(place: &Sandbox, uri: &str) -> Vec<Value> {
    let mut cards = place.json(&format!("list {uri}"));
    let cards = cards.as_array_mut().unwrap();
    cards
        .iter_mut()
        .for_each(|card| card["added"] = Value::Null);
    cards.clone()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// A checkpoint is written whole: its folder is there before its file.
fn checkpointed(place: &Sandbox) -> bool {
    let whole = "home/.cache/lyceum/training/*/*.safetensors";
    let mut files = glob::glob(place.path(whole).to_str().unwrap()).unwrap();
    files.next().is_some()
}

fn checkpoints(place: &Sandbox) -> usize {
    let dir = std::fs::read_dir(place.path("home/.cache/lyceum/training"));
    dir.map_or(0, Iterator::count)
}

#[test]
fn ctrl_c_keeps_what_is_finished_and_the_steps_of_the_rest() {
    let place = place(200);
    let line = |uri: &str| format!("{TRAIN} {uri} --epochs 3");
    place.ok(&line("whole"));
    for name in ["INT", "TERM"] {
        let uri = format!("cut-{name}");
        let mut child = start(&place, &line(&uri));
        wait(&mut child, || names(&place, &uri) == ["quick"]);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{said}");
        for part in [
            "stopped after step",
            "quick",
            "steps of 1 expert are kept",
            "goes on from there",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("error"), "{said}");
        assert_eq!(names(&place, &uri), ["quick"]);
        assert_eq!(checkpoints(&place), 1);
        assert!(place.ok("cache show").contains("1 interrupted trainings"));
        let output = place.output(&line(&uri));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && said.contains("going on from step"),
            "{said}"
        );
        assert_eq!(cards(&place, &uri), cards(&place, "whole"));
        assert_eq!(checkpoints(&place), 0);
    }
}

#[test]
fn a_second_ctrl_c_stops_at_once() {
    let place = place(4000);
    let mut child = start(&place, &format!("{TRAIN} lib --epochs 50"));
    wait(&mut child, || names(&place, "lib") == ["quick"]);
    // Faster than a step.
    signal(&child, "INT");
    signal(&child, "INT");
    let begun = Instant::now();
    let status = child.wait().unwrap();
    assert!(!status.success() && begun.elapsed() < Duration::from_secs(60));
    assert_eq!(names(&place, "lib"), ["quick"]);
}

#[test]
fn a_killed_training_keeps_what_is_finished() {
    let place = place(200);
    let line = |uri: &str| format!("{TRAIN} {uri} --epochs 3");
    place.ok(&line("whole"));
    let mut child = start(&place, &line("cut"));
    wait(&mut child, || names(&place, "cut") == ["quick"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&place, "cut"), ["quick"]);
    // Written when the first was finished, if not later.
    assert_eq!(checkpoints(&place), 1);
    // With other threads all the same.
    place.ok(&format!("{} --threads 1", line("cut")));
    assert_eq!(cards(&place, "cut"), cards(&place, "whole"));
    assert_eq!(checkpoints(&place), 0);
    assert!(place.ok("check cut").contains("0 problems"));
}

#[test]
fn a_recipe_stopped_in_its_training_goes_on() {
    let place = place(200);
    let recipe = std::fs::read_to_string(place.path("recipe.toml")).unwrap();
    let recipe = recipe.replace("epochs = 2", "epochs = 6");
    std::fs::write(place.path("recipe.toml"), &recipe).unwrap();
    place.ok("run recipe.toml --out whole");
    let mut child = start(&place, "run recipe.toml --out cut");
    // The base opens and the first stage begins before a step is done.
    let stage = place.path("cut");
    wait(&mut child, || stage.exists());
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // A signal before the stage began ends the process as it always did.
    assert!(!output.status.success(), "{said}");
    place.ok("run recipe.toml --out cut");
    let rows = |out: &str| {
        let path = place.path(out).join("report.json");
        crate::command::read_json(&path)["rows"].clone()
    };
    assert_eq!(rows("cut"), rows("whole"));
    assert_eq!(checkpoints(&place), 0);
}

#[test]
fn gates_that_were_interrupted_go_on() {
    let place = place(20);
    place.ok(&format!("{TRAIN} lib --epochs 1"));
    let derive = |uri: &str, steps: usize| {
        let line = format!("derive {uri} phatgoose --base base --data uneven.jsonl --batch 2");
        format!("{line} --steps {steps}")
    };
    // So many steps that a checkpoint is written long before the last, whatever the machine.
    let long = |steps: &usize| {
        place.ok(&format!("copy lib whole-{steps}"));
        let begun = Instant::now();
        place.ok(&derive(&format!("whole-{steps}"), *steps));
        begun.elapsed() > Duration::from_secs(6)
    };
    let steps = (0..8).map(|i| 2000 << i).find(long).unwrap();
    let whole = format!("whole-{steps}");
    // Every gate, bit by bit.
    let gates = |uri: &str| {
        let library = Library::open(place.path(uri).to_str().unwrap()).unwrap();
        let kind = Name::new("phatgoose").unwrap();
        let mut all = Vec::new();
        for name in library.names().unwrap() {
            let artifact = library.artifact_of(&kind, &name).unwrap().unwrap();
            for (site, vector) in artifact.vectors {
                let values = vector.to_vec1::<f32>().unwrap().into_iter();
                all.push((site, values.map(f32::to_bits).collect::<Vec<_>>()));
            }
        }
        all
    };
    for name in ["INT", "KILL"] {
        let uri = format!("cut-{name}");
        place.ok(&format!("copy lib {uri}"));
        let mut child = start(&place, &derive(&uri, steps));
        wait(&mut child, || checkpointed(&place));
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if name == "INT" {
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(said.contains("gates of 2 experts are kept"), "{said}");
        }
        assert_eq!(checkpoints(&place), 1);
        let output = place.output(&derive(&uri, steps));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && said.contains("going on from step"),
            "{said}"
        );
        assert!(gates(&uri) == gates(&whole));
        assert_eq!(checkpoints(&place), 0);
    }
}
