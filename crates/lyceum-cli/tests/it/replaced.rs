//! Nothing is replaced without being asked, and what was replaced comes back.

use crate::command::Sandbox;

const TRAIN: &str = "train --base base --data rows.jsonl --rank 2 --library lib";

fn trained() -> Sandbox {
    let place = Sandbox::new();
    place.ok(&format!("{TRAIN} --each-task --epochs 2"));
    place
}

fn weights(place: &Sandbox, name: &str) -> String {
    let shown = place.json(&format!("show lib {name}"));
    shown["card"]["weights"].as_str().unwrap().to_owned()
}

#[test]
fn training_again_otherwise_needs_replace_and_says_what_keeps_the_old() {
    let place = trained();
    let before = weights(&place, "task_0");
    // The very same again changes nothing.
    assert!(
        place
            .ok(&format!("{TRAIN} --each-task --epochs 2"))
            .contains("3 experts were there already")
    );
    let line = format!("{TRAIN} --tasks task_0 --epochs 1");
    let said = place.complaint(&line);
    for part in [
        "`task_0`",
        "epochs 2 (now 1)",
        "--replace",
        "version 1 keeps",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(weights(&place, "task_0"), before);
    let rows = place.json(&format!("{line} --replace"));
    assert_eq!(rows[0]["replaced"]["kept_in"], 1);
    assert_eq!(rows[0]["replaced"]["differs"][0], "epochs 2 (now 1)");
    let after = weights(&place, "task_0");
    assert_ne!(after, before);

    // Back again.
    let said = place.complaint("restore lib task_0");
    assert!(said.contains("--at") && said.contains("history"), "{said}");
    let said = place.complaint("restore lib task_0 --at 1");
    assert!(
        said.contains("--replace") && said.contains("version 2 keeps"),
        "{said}"
    );
    let said = place.json("restore lib task_0 --at 1 --replace");
    assert_eq!((&said["version"], &said["kept_in"]), (&3.into(), &2.into()));
    assert_eq!(weights(&place, "task_0"), before);
    let said = place.ok("restore lib task_0 --at 2 --replace");
    assert!(said.contains("version 3 keeps"), "{said}");
    assert_eq!(weights(&place, "task_0"), after);
    assert!(
        place
            .complaint("restore lib task_0 --at 9")
            .contains("not found")
    );
    assert!(place.ok("check lib").contains("0 problems"));
}

#[test]
fn another_base_data_or_settings_are_named() {
    let place = trained();
    crate::tiny::write_base(&place.path("other"), 2);
    let other = "train --base other --data rows.jsonl --rank 2 --epochs 2 --library lib";
    let said = place.complaint(&format!("{other} --tasks task_0"));
    assert!(
        said.contains("base `base`") && said.contains("now `other`"),
        "{said}"
    );
    // Beside those of the first base, too.
    let said = place.complaint(&format!("{other} --tasks task_0 --replace"));
    assert!(
        said.contains("`task_1`") && said.contains("--mixed-bases"),
        "{said}"
    );
    let rows = crate::tiny::rows(4);
    std::fs::write(place.path("more.jsonl"), rows).unwrap();
    let said = place.complaint(
        "train --base base --data more.jsonl --rank 2 --epochs 2 --library lib --tasks task_0",
    );
    assert!(said.contains("data "), "{said}");
    assert_eq!(place.json("history lib").as_array().unwrap().len(), 1);
    place.ok(&format!("{other} --each-task --replace"));
    assert_eq!(place.json("list lib")[0]["base_name"], "other");
}

#[test]
#[cfg_attr(not(feature = "assets"), ignore = "needs the feature `assets`")]
fn a_run_that_ended_above_where_it_began_is_named() {
    let place = Sandbox::new();
    // The shipped base has something to lose.
    let output = place.output(
        "train --data rows.jsonl --each-task --library lib --rank 2 --epochs 5 --batch 4 --lr 1000 \
         --format json",
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ended above where it began"), "{said}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows.iter().any(|row| row["warning"].is_string()));
}

#[test]
fn tasks_named_twice_are_trained_once() {
    let place = Sandbox::new();
    let output = place.output(&format!("{TRAIN} --tasks task_0,task_1,task_0 --epochs 1"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("named twice"),
        "{said}"
    );
    assert_eq!(place.json("list lib").as_array().unwrap().len(), 2);
}

#[test]
fn what_fails_leaves_no_library_behind() {
    let place = Sandbox::new();
    for line in [
        format!("{TRAIN} --tasks nosuch"),
        format!("{TRAIN} --each-task --rank 0"),
        format!("{TRAIN} --each-task --targets nosuch"),
        "train --base nowhere --data rows.jsonl --each-task --library lib".into(),
        "merge none --method cat --name x --library lib".into(),
        "copy none lib".into(),
    ] {
        place.complaint(&line);
        assert!(!place.path("lib").exists(), "{line}");
    }
}

#[test]
fn a_recipe_run_again_otherwise_says_what_it_replaces() {
    let place = Sandbox::new();
    place.ok("run recipe.toml --out out");
    let recipe = std::fs::read_to_string(place.path("recipe.toml")).unwrap();
    let other = recipe.replace("epochs = 2", "epochs = 1");
    std::fs::write(
        place.path("recipe.toml"),
        other.replace("k = 2\n\n[phat", "k = 1\n\n[phat"),
    )
    .unwrap();
    let output = place.output("run recipe.toml --out out");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("`task_0` is trained again") && said.contains("version 3 keeps"),
        "{said}"
    );
    // The second cluster of the first run is still in the library and none of the second's.
    let listed = place.json("list out/libraries/mbc");
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let fresh = place.ok("run recipe.toml --out fresh");
    assert!(fresh.contains("report.md"));
    let rows =
        |out: &str| crate::command::read_json(&place.path(out).join("report.json"))["rows"].clone();
    assert_eq!(rows("out"), rows("fresh"));
}
