//! Pre-training: it learns, continues to the same weights, and refuses another recipe.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use lyceum::Error;
use lyceum::progress::{NoProgress, Step};
use lyceum_pretrain::{Pretrain, PretrainState, pretrain};

const RECIPE: &str = r#"
seed = 3
text = ["story.txt"]
text_bytes = 1000000
questions = 2
tasks = ["told.jsonl"]
prompts = ["asked.jsonl"]
repeat = 2
hold_out = 10
vocab = 320
width = 16
layers = 2
heads = 2
positions = 96
window = 16
context = 96
batch_tokens = 256
accumulate = 2
steps = 6
lr = 1e-2
warmup = 1
decay = 2
weight_decay = 0.1
clip = 1.0
save_every = 2
"#;

/// A folder of small texts.
fn data(dir: &Path) {
    let names = ["Martha", "Peter", "Anna", "Oliver", "Judith"];
    let things = [
        "garden", "window", "letter", "kitchen", "station", "village",
    ];
    let mut story = String::new();
    for i in 0..400 {
        let (who, what) = (names[i % 5], things[i * i % 6]);
        story += &format!("{who} saw the {what} again. It was still there on day {i}.\n");
    }
    std::fs::write(dir.join("story.txt"), story).unwrap();
    for (file, target) in [("told.jsonl", "yes"), ("asked.jsonl", "SECRET")] {
        let row = |i: usize| {
            let source = format!("Is {} in the {}? ({i})", names[i % 5], things[i % 6]);
            let split = if i < 40 { "train" } else { "test" };
            let row = serde_json::json!({ "source": source, "target": target, "split": split,
                "task_name": file.trim_end_matches(".jsonl"), "task_source": "made",
                "template_type": "zs" });
            format!("{row}\n")
        };
        let rows: String = (0..50).map(row).collect();
        std::fs::write(dir.join(file), rows).unwrap();
    }
}

fn recipe(change: (&str, &str)) -> Pretrain {
    toml::from_str(&RECIPE.replace(change.0, change.1)).unwrap()
}

fn run(how: &Pretrain, root: &Path, out: &str) -> lyceum::Result<PretrainState> {
    pretrain(how, root, &root.join(out), &Device::Cpu, &mut NoProgress)
}

#[test]
fn it_learns_and_continues_to_the_same_weights() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    data(root);
    let whole = run(&recipe(("", "")), root, "whole").unwrap();
    assert_eq!(whole.losses.len(), 6);
    assert!(
        whole.losses[5] < whole.losses[0] - 0.5,
        "{:?}",
        whole.losses
    );
    assert_eq!(whole.held_out.len(), 3);
    assert!(whole.baseline.is_some());

    // Stopped while the rate was at its peak, and given its last steps later.
    run(
        &recipe((
            "steps = 6\nlr = 1e-2\nwarmup = 1\ndecay = 2",
            "steps = 4\nlr = 1e-2\nwarmup = 1\ndecay = 0",
        )),
        root,
        "parts",
    )
    .unwrap();
    let parts = run(&recipe(("", "")), root, "parts").unwrap();
    assert_eq!(parts.losses, whole.losses);
    let weights = |name: &str| std::fs::read(root.join(name).join("model.safetensors")).unwrap();
    assert!(weights("parts") == weights("whole"));

    for change in [
        ("lr = 1e-2", "lr = 2e-2"),
        ("decay = 2", "decay = 5"),
        ("seed = 3", "seed = 4"),
    ] {
        let error = run(&recipe(change), root, "whole").unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
    }
    let error = run(&recipe(("decay = 2", "decay = 6")), root, "new").unwrap_err();
    assert!(error.to_string().contains("decay"), "{error}");
}

#[test]
fn targets_of_prompts_and_test_rows_are_never_seen() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    data(root);
    let seen = run(&recipe(("", "")), root, "one").unwrap();
    // The same data but for what must not be read.
    let text = std::fs::read_to_string(root.join("asked.jsonl")).unwrap();
    std::fs::write(root.join("asked.jsonl"), text.replace("SECRET", "other")).unwrap();
    let text = std::fs::read_to_string(root.join("told.jsonl")).unwrap();
    let kept: String = text
        .lines()
        .take(40)
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(root.join("told.jsonl"), kept).unwrap();
    assert_eq!(run(&recipe(("", "")), root, "two").unwrap(), seen);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_weights() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    data(root);
    let how = recipe(("", ""));
    let whole = run(&how, root, "whole").unwrap();
    // Between two checkpoints.
    let mut third = |step: &Step| match step.done {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let out = root.join("cut");
    let error = pretrain(&how, root, &out, &Device::Cpu, &mut third).unwrap_err();
    assert!(
        matches!(&error, Error::Stopped(text) if text.contains("after step 3 of 6")),
        "{error}"
    );
    let mut seen = Vec::new();
    let mut rest = |step: &Step| {
        seen.push(step.done);
        ControlFlow::Continue(())
    };
    let state = pretrain(&how, root, &out, &Device::Cpu, &mut rest).unwrap();
    assert_eq!(seen, [4, 5, 6]);
    assert_eq!(state, whole);
    let weights = |name: &str| std::fs::read(root.join(name).join("model.safetensors")).unwrap();
    assert!(weights("cut") == weights("whole"));
}
