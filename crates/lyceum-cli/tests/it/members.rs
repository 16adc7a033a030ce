//! A merged expert does not change other results.

use serde_json::Value;

use crate::command::{Sandbox, read_json};

fn trained() -> Sandbox {
    let place = Sandbox::new();
    place.ok("train --base base --data rows.jsonl --each-task --library lib --rank 2 --epochs 2");
    place
}

/// The README's lines over one library, with small settings.
const WALK: &[&str] = &[
    "train --base base --data rows.jsonl --each-task --library lib --rank 2 --epochs 2",
    "list lib",
    "show lib task_0",
    "copy lib lib-copy",
    "cluster lib --k 2 --sparsity 0.2",
    "train --base base --data rows.jsonl --clusters mbc_clusters.json --library mbc --rank 2 --epochs 1",
    "derive lib arrow",
    "derive lib phatgoose --steps 2 --lr 1e-3 --base base --data rows.jsonl",
    "save --base base --router arrow --top-k 2 --library lib routed",
    "merge lib --method cat --name all",
    "check lib --base base",
    "check mbc",
];

fn results(place: &Sandbox) -> Vec<Value> {
    let eval = "eval --base base --data rows.jsonl --max-new 3";
    let mut all = Vec::new();
    for router in [
        "oracle",
        "uniform",
        "arrow --top-k 2",
        "phatgoose --top-k 2",
    ] {
        all.push(place.json(&format!("{eval} --library lib --router {router}")));
    }
    all.push(place.json("eval --base base --model routed --task questions.jsonl"));
    all.push(place.json("eval --base base --library lib --router uniform --task questions.jsonl"));
    all
}

#[test]
fn the_walk_through_is_right_when_it_is_repeated() {
    let place = Sandbox::new();
    WALK.iter().for_each(|line| {
        place.ok(line);
    });
    let (first, clusters) = (results(&place), read_json(&place.path("mbc_clusters.json")));
    let history = place.json("history lib").as_array().unwrap().len();
    WALK.iter().for_each(|line| {
        place.ok(line);
    });
    assert_eq!(results(&place), first);
    assert_eq!(read_json(&place.path("mbc_clusters.json")), clusters);
    // Nothing was left to do.
    assert_eq!(place.json("history lib").as_array().unwrap().len(), history);
    assert_eq!(place.json("list lib").as_array().unwrap().len(), 4);
    assert_eq!(place.json("list routed").as_array().unwrap().len(), 3);
}

#[test]
fn adding_a_merged_expert_changes_no_result() {
    let place = trained();
    place.ok("derive lib arrow");
    place.ok("derive lib phatgoose --steps 2 --lr 1e-3 --base base --data rows.jsonl");
    place.ok("save --base base --router arrow --top-k 2 --library lib routed");
    place.ok("cluster lib --out before.json");
    let before = results(&place);
    // Before and after the trained ones by name.
    for (name, method) in [("zz", "cat"), ("aa", "linear")] {
        place.ok(&format!("merge lib --method {method} --name {name}"));
        assert_eq!(results(&place), before, "{name}");
        place.ok("cluster lib --out after.json");
        assert_eq!(
            read_json(&place.path("after.json")),
            read_json(&place.path("before.json"))
        );
    }
    let merged = place.json("show lib aa")["card"]["origin"]["experts"].clone();
    assert_eq!(merged.as_object().unwrap().len(), 3, "{merged}");
    let said = place.json("derive lib arrow");
    assert_eq!(
        (said["derived"].as_array().unwrap().len(), &said["experts"]),
        (0, &3.into())
    );
    assert!(place.ok("check lib").contains("0 problems"));
}

#[test]
fn merged_experts_count_where_they_are_asked_for() {
    let place = trained();
    place.ok("merge lib --method cat --name all");
    let eval = |rest: &str| {
        let line = "eval --base base --library lib --data rows.jsonl --max-new 3";
        place.json(&format!("{line} {rest}"))
    };
    let alone = eval("--router uniform --experts all");
    // An exact equal-weighted sum of the three is what `uniform` over them is.
    assert_eq!(alone, eval("--router uniform"));
    assert_ne!(eval("--router uniform --include merged"), Value::Null);
    let said = place.complaint(
        "eval --base base --library lib --data rows.jsonl --router arrow --include merged",
    );
    assert!(said.contains("lyceum derive lib arrow"), "{said}");
    place.ok("derive lib arrow --include merged");
    assert!(place.json("show lib all")["artifacts"][0] == "arrow");
    eval("--router arrow --include merged --top-k 4");
    // The trained expert serves its task although a merged one is counted.
    assert_eq!(
        eval("--router oracle --include merged"),
        eval("--router oracle")
    );
    let text = place.json(
        "generate --base base --library lib --router uniform --experts all --prompt Hi --max-new 2",
    );
    assert!(text["tokens"].is_number());
    // A saved model repeats its choice.
    place.ok("save --base base --router arrow --top-k 2 --library lib routed --include merged");
    assert_eq!(place.json("list routed").as_array().unwrap().len(), 4);
    place.ok("save --base base --router uniform --library lib one --experts task_0,all");
    assert_eq!(place.json("list one").as_array().unwrap().len(), 2);
    let line = "--base base --task questions.jsonl";
    assert_eq!(
        place.json(&format!("eval {line} --model one"))[0]["mean"],
        place.json(&format!(
            "eval {line} --library lib --router uniform --experts task_0,all"
        ))[0]["mean"]
    );
    for (line, says) in [
        ("eval --base base --model one --experts task_0", "--model"),
        ("eval --base base --experts task_0", "--router"),
        ("cluster lib --experts nosuch", "nosuch"),
        ("cluster lib --experts all --include merged", "--include"),
    ] {
        assert!(place.complaint(line).contains(says), "{line}");
    }
}

#[test]
fn a_library_of_merged_experts_alone_is_told() {
    let place = trained();
    place.ok("merge lib --method cat --name all --library merged");
    let eval = "eval --base base --library merged --router uniform --data rows.jsonl --max-new 2";
    let said = place.complaint(eval);
    assert!(
        said.contains("merged experts only") && said.contains("--include merged"),
        "{said}"
    );
    place.ok(&format!("{eval} --include merged"));
}

#[test]
fn two_experts_of_one_task_are_named_for_the_oracle() {
    let place = trained();
    place.ok("rename lib task_0 task_0-v1");
    place
        .ok("train --base base --data rows.jsonl --tasks task_0 --library lib --rank 2 --epochs 1");
    let eval = "eval --base base --library lib --router oracle --data rows.jsonl --max-new 2";
    let said = place.complaint(eval);
    assert!(
        said.contains("`task_0` and `task_0-v1` both serve task `task_0`"),
        "{said}"
    );
    place.ok(&format!("{eval} --experts task_0-v1,task_1,task_2"));
}

#[test]
fn clusters_of_renamed_experts_are_trained_on_their_tasks() {
    let place = trained();
    place.ok("rename lib task_0 first");
    place.ok("merge lib --method cat --name all");
    place.ok("cluster lib --k 2 --out clusters.json");
    // As MTTL reads them: names of experts.
    let clusters = read_json(&place.path("clusters.json"));
    let members = clusters
        .as_object()
        .unwrap()
        .values()
        .flat_map(|c| c.as_array().unwrap());
    let mut members: Vec<&str> = members.map(|name| name.as_str().unwrap()).collect();
    members.sort_unstable();
    assert_eq!(members, ["first", "task_1", "task_2"]);
    assert!(place.path("clusters.tasks.json").exists());
    let train = "train --base base --data rows.jsonl --rank 2 --epochs 1 --library mbc --clusters";
    place.ok(&format!("{train} clusters.json"));
    let cards = place.json("list mbc");
    let tasks = cards
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|c| c["tasks"].as_array().unwrap());
    let mut tasks: Vec<&str> = tasks.map(|task| task.as_str().unwrap()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, ["task_0", "task_1", "task_2"]);
    // Without the second file the name is told.
    std::fs::copy(place.path("clusters.json"), place.path("moved.json")).unwrap();
    assert!(
        place
            .complaint(&format!("{train} moved.json"))
            .contains("`first`")
    );
    // One that belongs to other clusters is not used.
    std::fs::write(place.path("clusters.json"), r#"{"c": ["task_1"]}"#).unwrap();
    let output = place.output(&format!("{train} clusters.json"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("is not used"),
        "{said}"
    );
    // Where names are tasks there is no second file, and an old one goes.
    place.ok("rename lib first task_0");
    place.ok("cluster lib --k 2 --out clusters.json");
    assert!(!place.path("clusters.tasks.json").exists());
    std::fs::write(place.path("none.json"), "{}").unwrap();
    assert!(
        place
            .complaint(&format!("{train} none.json"))
            .contains("has no clusters")
    );
}
