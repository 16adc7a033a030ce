//! The project file, the settings in force, data shown, exit codes.

use crate::command::Sandbox;

#[test]
fn a_project_names_base_data_and_library() {
    let place = Sandbox::new();
    place.ok("init --base base --data rows.jsonl --library lib");
    place.ok("train --epochs 1 --rank 2");
    let listed = place.json("list");
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[0]["lora"]["rank"], 2);
    // A library without a router is routed by what is derived for it, or an error.
    assert!(
        place
            .complaint("eval --limit 1 --max-new 2")
            .contains("--router")
    );
    place.ok("derive lib arrow");
    let output = place.output("eval --limit 1 --max-new 2");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`arrow`"), "{said}");
    // Below the folder the same file holds, and its paths begin where it is.
    std::fs::create_dir(place.path("below")).unwrap();
    let mut below = place.command("list --format json");
    let output = below.current_dir(place.path("below")).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(place.complaint("init").contains("--replace"));
}

#[test]
fn settings_in_force_name_where_they_come_from() {
    let place = Sandbox::new();
    assert!(place.json("config").as_array().unwrap().is_empty());
    place.ok("init --library lib");
    let mut command = place.command("config --format json");
    let output = command.env("LYCEUM_BASE", "base").output().unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let named = |i: usize| (rows[i]["setting"].as_str(), rows[i]["from"].as_str());
    assert_eq!(named(0), (Some("base"), Some("LYCEUM_BASE")));
    let (setting, from) = named(1);
    assert_eq!(setting, Some("library"));
    assert!(from.unwrap().ends_with("lyceum.toml"));
    std::fs::write(place.path("lyceum.toml"), "libary = 'lib'").unwrap();
    assert!(place.complaint("list").contains("did you mean `library`"));
}

#[test]
fn data_is_shown_by_task() {
    let place = Sandbox::new();
    let tasks = place.json("data show rows.jsonl");
    assert_eq!(tasks.as_object().unwrap().len(), 3);
    assert!(tasks["task_0"]["train"].as_u64().unwrap() > 0);
    assert!(place.ok("data show rows.jsonl").contains("task_2"));
}

#[test]
fn exit_codes_tell_what_a_script_can_do() {
    let place = Sandbox::new();
    place.ok("train --base base --data rows.jsonl --library lib --epochs 1");
    let code = |line: &str| place.output(line).status.code().unwrap();
    assert_eq!(code("list lib"), 0);
    assert_eq!(code("list lib --nonsense"), 2);
    assert_eq!(code("purge lib --grace 0s"), 2);
    assert_eq!(code("eval --library lib --router arow"), 2);
    assert_eq!(code("list nowhere"), 3);
    assert_eq!(code("show lib nobody"), 3);
    assert_eq!(code("rename lib task_0 task_1"), 4);
    std::fs::write(place.path("broken.jsonl"), "{").unwrap();
    assert_eq!(code("data show broken.jsonl"), 5);
}

#[test]
fn quiet_prints_no_message() {
    let place = Sandbox::new();
    place.ok("train --base base --data rows.jsonl --library lib --epochs 1");
    let output = place.output("cluster lib -q --out clusters.json");
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!output.stdout.is_empty());
}
