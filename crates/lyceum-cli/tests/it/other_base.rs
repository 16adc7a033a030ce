//! Experts trained over one base and used over another: QLoRA's way, and other networks.

use crate::bad_input::trained;
use crate::command::read_json;
use crate::tiny;

const EVAL: &str = "eval --library lib --router uniform --eval-task questions.jsonl";

#[test]
fn other_weights_of_one_architecture_are_used_when_asked_for_and_named() {
    let place = trained();
    tiny::write_base(&place.path("full"), 2);
    let card = &place.json("list lib")[0];
    assert!(card["base_family"].is_string(), "{card}");

    let error = place.complaint(&format!("{EVAL} --base full"));
    assert!(
        error.contains("other weights of the same architecture"),
        "{error}"
    );
    assert!(error.contains("--allow-other-base"), "{error}");
    let error = place.complaint("derive lib phatgoose --steps 2 --base full --data rows.jsonl");
    assert!(error.contains("--allow-other-base"), "{error}");

    let line = format!("{EVAL} --base full --allow-other-base --out ev --format json");
    let output = place.output(&line);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Trained over other weights"), "{said}");
    let report = read_json(&place.path("ev/report.json"));
    let note = report["notes"][0].as_str().unwrap();
    let listed = place.json("list lib");
    let name = |card: &serde_json::Value| card["name"].as_str().unwrap().to_owned();
    let names: Vec<String> = listed.as_array().unwrap().iter().map(name).collect();
    assert!(note.contains(&names.join(", ")), "{note}");

    // Over its own base there is nothing to say.
    place.ok(&format!("{EVAL} --base base --allow-other-base --out own"));
    let answers = |out: &str| std::fs::read(place.path(out).join("predictions.jsonl")).unwrap();
    assert_ne!(answers("ev"), answers("own"));
    let report = read_json(&place.path("own/report.json"));
    assert_eq!(
        report["notes"].as_array().unwrap().len(),
        0,
        "{}",
        report["notes"]
    );

    let checked = place.json("check lib --base full");
    assert_eq!(
        checked["problems"].as_array().unwrap().len(),
        0,
        "{checked}"
    );
    assert!(
        checked["warnings"].to_string().contains("other weights"),
        "{checked}"
    );

    place.ok("derive lib phatgoose --steps 2 --base full --data rows.jsonl --allow-other-base");
    place.ok("save --base base --library lib --router uniform routed");
    let open = "eval --model routed --eval-task questions.jsonl --base full";
    assert!(place.complaint(open).contains("--allow-other-base"));
    place.ok(&format!("{open} --allow-other-base"));
}

#[test]
fn another_architecture_is_refused_all_the_same() {
    let place = trained();
    tiny::write_base(&place.path("other"), 2);
    let path = place.path("other/config.json");
    let mut config = read_json(&path);
    config["layer_norm_epsilon"] = 1e-6.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let error = place.complaint(&format!("{EVAL} --base other --allow-other-base"));
    assert!(error.contains("another architecture"), "{error}");
    assert!(!error.contains("--allow-other-base"), "{error}");
    let line = "check lib --base other --format json";
    assert_eq!(place.output(line).status.code(), Some(1));
}
