//! Every subcommand alone, in the order of the README's walk-through.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, safetensors};

use crate::command::{Sandbox, read_json};

fn trained() -> Sandbox {
    let place = Sandbox::new();
    place.ok("train --base base --data rows.jsonl --each-task --library lib --rank 2 --epochs 2");
    place
}

/// The cards of a library, without when each was added.
fn cards(place: &Sandbox, uri: &str) -> Vec<serde_json::Value> {
    let mut cards = place
        .json(&format!("list {uri}"))
        .as_array()
        .unwrap()
        .clone();
    for card in &mut cards {
        assert!(card.as_object_mut().unwrap().remove("added").is_some());
    }
    cards
}

#[test]
fn a_library_is_trained_listed_shown_copied_and_clustered() {
    let place = trained();
    let listed = cards(&place, "lib");
    let names: Vec<&str> = listed.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["task_0", "task_1", "task_2"]);
    assert_eq!(listed[0]["lora"]["rank"], 2);
    assert_eq!(listed[0]["losses"].as_array().unwrap().len(), 2);
    assert!(place.ok("list lib").contains("task_1"));
    let shown = place.json("show lib task_1");
    assert_eq!(shown["sites"].as_array().unwrap().len(), 6);
    assert!(shown["sites"][0]["norm"].as_f64().unwrap() > 0.0);
    place.ok("derive lib arrow");
    place.ok("copy lib lib2");
    assert_eq!(cards(&place, "lib2"), listed);
    assert_eq!(place.json("show lib2 task_0")["artifacts"][0], "arrow");
    place.ok("remove lib2 task_0");
    assert_eq!(place.json("list lib2").as_array().unwrap().len(), 2);
    place.ok("remove lib2 task_0 --restore");
    assert_eq!(cards(&place, "lib2"), listed);
    place.ok("cluster lib --k 2 --sparsity 0.2 --out clusters.json");
    let clusters = read_json(&place.path("clusters.json"));
    let members: usize = clusters
        .as_object()
        .unwrap()
        .values()
        .map(|c| c.as_array().unwrap().len())
        .sum();
    assert_eq!(members, 3);
    place.ok(
        "train --base base --data rows.jsonl --clusters clusters.json --library mbc --epochs 1",
    );
    let experts = place.json("list mbc");
    assert_eq!(experts[0]["name"], "cluster_0");
    assert_eq!(
        experts[0]["tasks"].as_array().unwrap().len()
            + experts[1]["tasks"].as_array().unwrap().len(),
        3
    );
}

#[test]
fn versions_are_listed_opened_restored_and_purged() {
    let place = trained();
    place.ok("derive lib arrow");
    place.ok("rename lib task_0 first");
    place.ok("remove lib task_1 task_2");
    let names = |line: &str| -> Vec<String> {
        let rows = place.json(line);
        let rows = rows.as_array().unwrap().iter();
        rows.map(|r| r["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("list lib"), ["first"]);
    assert_eq!(names("list lib --removed"), ["task_1", "task_2"]);
    assert_eq!(names("list lib --at 1"), ["task_0", "task_1", "task_2"]);
    assert_eq!(names("list lib --at 1 --name *_[02]"), ["task_0", "task_2"]);
    assert_eq!(names("list lib --at 1 --tasks task_1"), ["task_1"]);
    assert!(names("list lib --base other").is_empty());
    assert_eq!(place.json("show lib first")["artifacts"][0], "arrow");
    assert_eq!(place.json("show lib task_0 --at 1")["version"], 1);
    let history = place.json("history lib");
    assert_eq!(history.as_array().unwrap().len(), 4);
    assert_eq!(history[0]["changes"][1], "removed task_2");
    let table = place.ok("history lib");
    assert!(table.contains("renamed task_0 to first"));
    // Numbers end below the ends of their names.
    let ends: Vec<Option<usize>> = { table.lines() }
        .map(|line| line.find(|c: char| !c.is_whitespace()))
        .collect();
    assert_eq!(
        ends,
        [Some(0), Some(6), Some(6), Some(6), Some(6)],
        "{table}"
    );
    place.ok("restore lib task_1");
    place.ok("copy lib other task_2 --at 1");
    assert_eq!(names("list other"), ["task_2"]);
    let would = place.json("purge lib --grace 14d --dry-run");
    assert_eq!(
        (&would["experts"], &would["objects"]),
        (&0.into(), &0.into())
    );
    let gone = place.json("purge lib --grace 0s --yes");
    assert_eq!(gone["experts"], 1);
    assert!(place.complaint("list lib --at 1").contains("purged"));
    assert!(place.complaint("restore lib task_2").contains("not found"));
    assert!(place.complaint("purge lib --yes --grace 3").contains("14d"));
    assert_eq!(names("list lib"), ["first", "task_1"]);
}

#[test]
#[cfg_attr(not(feature = "report"), ignore = "needs the feature `report`")]
fn every_router_is_evaluated_saved_and_opened() {
    let place = trained();
    place.ok("derive lib arrow");
    place.ok("derive lib phatgoose --steps 2 --lr 1e-3 --base base --data rows.jsonl");
    for router in ["base", "oracle", "uniform", "arrow", "phatgoose"] {
        for mixing in ["outputs", "factors"] {
            let line = format!(
                "eval --base base --library lib --router {router} --mixing {mixing} --data rows.jsonl --max-new 3"
            );
            let rows = place.json(&line);
            let mean = rows.as_array().unwrap().last().unwrap().clone();
            assert_eq!(
                (mean["task"].as_str(), mean["n"].as_u64()),
                (Some("mean"), Some(6))
            );
        }
    }
    let line = "--base base --library lib --router arrow --top-k 2";
    place.ok(&format!("save {line} routed"));
    let direct = place.json(&format!("eval {line} --eval-task questions.jsonl"));
    let saved =
        place.json("eval --base base --model routed --eval-task questions.jsonl --out report");
    assert_eq!(direct[0]["mean"], saved[0]["mean"]);
    for file in [
        "report.json",
        "report.html",
        "report.md",
        "predictions.jsonl",
        "plots/downstream-questions.svg",
    ] {
        assert!(place.path("report").join(file).exists(), "{file}");
    }
    let text = place.json(&format!("generate {line} --prompt Hello --max-new 3"));
    assert!(text["tokens"].as_u64().unwrap() <= 3);
    place.ok("generate --base base --prompt Hello --max-new 3");
}

#[test]
fn logits_are_padded_as_they_came() {
    let place = trained();
    let tensor = |values: Vec<i64>| Tensor::from_vec(values, (2, 4), &Device::Cpu).unwrap();
    let input = BTreeMap::from([
        ("input_ids", tensor(vec![5, 6, 7, 8, 0, 0, 9, 10])),
        ("attention_mask", tensor(vec![1, 1, 1, 1, 0, 0, 1, 1])),
    ]);
    let bytes = ::safetensors::serialize(input, None).unwrap();
    std::fs::write(place.path("in.safetensors"), bytes).unwrap();
    std::fs::write(place.path("tasks.json"), r#"["task_0", "task_1"]"#).unwrap();
    place.ok("logits --base base --library lib --router oracle --task-names tasks.json --input in.safetensors --out out.safetensors");
    let read = || {
        safetensors::load(place.path("out.safetensors"), &Device::Cpu).unwrap()["logits"]
            .to_vec3::<f32>()
            .unwrap()
    };
    let oracle = read();
    assert_eq!(
        (oracle.len(), oracle[0].len(), oracle[0][0].len()),
        (2, 4, 4096)
    );
    assert!(oracle[1][0].iter().all(|x| *x == 0.0) && oracle[1][2].iter().any(|x| *x != 0.0));
    place.ok("logits --base base --input in.safetensors --out out.safetensors");
    let plain = read();
    assert_ne!(oracle[1][3], plain[1][3]);
}
