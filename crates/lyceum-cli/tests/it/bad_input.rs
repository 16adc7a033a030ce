//! Bad input: one clear line on stderr, an exit code that says the kind, nothing lost.

use crate::command::Sandbox;

/// Asserts that the complaint to `line` holds every one of `parts`.
pub(crate) fn refused(place: &Sandbox, line: &str, parts: &[&str]) {
    let complaint = place.complaint(line);
    for part in parts {
        assert!(
            complaint.contains(part),
            "lyceum {line}\nsaid: {complaint}\nwithout: {part}"
        );
    }
}

pub(crate) fn trained() -> Sandbox {
    let place = Sandbox::new();
    place.ok("train --base base --data rows.jsonl --each-task --library lib --epochs 1");
    place
}

#[test]
#[cfg(not(feature = "cuda"))]
fn devices_that_are_not_there() {
    let place = Sandbox::new();
    refused(&place, "list lib --device gpu", &["`gpu`", "cuda:N"]);
    refused(&place, "list lib --device cuda", &["the feature `cuda`"]);
}

#[test]
fn bases_that_cannot_be_opened() {
    let place = Sandbox::new();
    refused(
        &place,
        "generate --base nowhere --prompt x",
        &["nowhere", "not found"],
    );
    std::fs::rename(place.path("base/tokenizer.json"), place.path("base/gone")).unwrap();
    refused(
        &place,
        "generate --base base --prompt x",
        &["tokenizer.json is missing"],
    );
    std::fs::rename(place.path("base/gone"), place.path("base/tokenizer.json")).unwrap();
    let config = std::fs::read_to_string(place.path("base/config.json")).unwrap();
    let wrong = config.replace("\"hidden_size\":16", "\"hidden_size\":32");
    assert_ne!(config, wrong);
    std::fs::write(place.path("base/config.json"), wrong).unwrap();
    refused(
        &place,
        "generate --base base --prompt x",
        &["transformer.", "16", "32"],
    );
    std::fs::write(
        place.path("base/config.json"),
        config.replace("gpt_neo", "gpt_new"),
    )
    .unwrap();
    refused(&place, "generate --base base --prompt x", &["gpt_new"]);
}

#[test]
fn experts_of_another_base() {
    let place = trained();
    crate::tiny::write_base(&place.path("other"), 2);
    let line = "eval --base other --library lib --router uniform --data rows.jsonl";
    refused(
        &place,
        line,
        &["task_0", "other weights", "--allow-other-base"],
    );
}

#[test]
fn tasks_rows_and_splits_that_are_not_there() {
    let place = trained();
    let eval = "eval --base base --data rows.jsonl";
    refused(
        &place,
        &format!("{eval} --tasks task_9"),
        &["task_9", "did you mean"],
    );
    refused(
        &place,
        &format!("{eval} --split tests"),
        &["tests", "validation"],
    );
    let rows = std::fs::read_to_string(place.path("rows.jsonl")).unwrap();
    let no_test: String = rows
        .lines()
        .filter(|l| !l.contains("\"test\"}"))
        .map(|l| format!("{l}\n"))
        .collect();
    assert!(no_test.len() < rows.len());
    std::fs::write(place.path("no_test.jsonl"), no_test).unwrap();
    refused(
        &place,
        "eval --base base --data no_test.jsonl",
        &["task_0", "test"],
    );
    std::fs::write(
        place.path("empty.jsonl"),
        r#"{"source":" ","target":"x","task_name":"t","split":"train"}"#,
    )
    .unwrap();
    refused(
        &place,
        "eval --base base --data empty.jsonl",
        &["empty.jsonl:1", "`source` is empty"],
    );
    refused(
        &place,
        "eval --base base --data nothing.jsonl",
        &["nothing.jsonl", "not found"],
    );
}

#[test]
#[cfg_attr(not(feature = "assets"), ignore = "needs the feature `assets`")]
fn routers_without_what_they_need() {
    let place = trained();
    let eval = "eval --base base --library lib --data rows.jsonl --router";
    refused(
        &place,
        &format!("{eval} arrow"),
        &["no arrow artifact", "lyceum derive lib arrow"],
    );
    refused(
        &place,
        &format!("{eval} phatgoose"),
        &["lyceum derive lib phatgoose"],
    );
    refused(&place, &format!("{eval} arow"), &["did you mean arrow"]);
    place.ok("derive lib arrow");
    refused(
        &place,
        &format!("{eval} arrow --top-k 4"),
        &["top-k 4", "3 experts"],
    );
    refused(
        &place,
        "eval --base base --library none --router uniform",
        &["library `none` not found"],
    );
    refused(
        &place,
        "eval --base base --router uniform",
        &["needs --library"],
    );
    // Retraining one expert makes its prototype stale.
    place.ok(
        "train --base base --data rows.jsonl --tasks task_1 --library lib --epochs 2 --replace",
    );
    refused(
        &place,
        &format!("{eval} arrow"),
        &["task_1", "changed", "lyceum derive lib arrow"],
    );
    place.ok("derive lib arrow");
    place.ok(&format!("{eval} arrow --max-new 2"));
}

#[test]
fn recipes_with_a_wrong_key() {
    let place = Sandbox::new();
    let recipe = std::fs::read_to_string(place.path("recipe.toml")).unwrap();
    std::fs::write(place.path("wrong.toml"), recipe.replace("epochs", "epoch")).unwrap();
    refused(
        &place,
        "run wrong.toml --out out",
        &["wrong.toml", "epoch", "did you mean `epochs`?"],
    );
    refused(
        &place,
        "run none.toml --out out",
        &["none.toml", "not found"],
    );
}

#[test]
fn losses_that_are_not_finite() {
    let place = Sandbox::new();
    let line = "train --base base --data rows.jsonl --each-task --library lib --lr 1e30";
    refused(&place, line, &["not finite"]);
    // What failed leaves no library behind.
    assert!(!place.path("lib").exists());
    refused(&place, "list lib", &["library `lib` not found"]);
}

/// A limit on the size of files stands for a full disk: a write fails, or kills the process.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let place = trained();
    let before = place.json("list lib");
    let lyceum = env!("CARGO_BIN_EXE_lyceum");
    let train =
        "train --base base --data rows.jsonl --each-task --library lib --epochs 3 --replace";
    for (trap, code) in [("trap '' XFSZ;", Some(5)), ("", None)] {
        let limited = format!("{trap} ulimit -f 1; exec {lyceum} {train}");
        let output = std::process::Command::new("sh")
            .args(["-c", &limited])
            .current_dir(place.path("."))
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            code,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(place.json("list lib"), before);
        let eval = "eval --base base --library lib --router uniform --data rows.jsonl";
        place.ok(&format!("{eval} --max-new 2"));
    }
}

/// Rows left out of the data are reported on stderr, apart from results.
#[test]
fn what_is_left_out_of_the_data_is_said() {
    let place = Sandbox::new();
    let rows = std::fs::read(place.path("rows.jsonl")).unwrap();
    std::fs::create_dir_all(place.path("data/more")).unwrap();
    std::fs::write(place.path("data/more/rows.jsonl"), rows).unwrap();
    std::fs::write(place.path("data/rows.csv"), "a,b").unwrap();
    let out = place.output("eval --base base --data data --max-new 1 --format json");
    assert!(out.status.success());
    let said = String::from_utf8(out.stderr).unwrap();
    let line = "data: left out 1 file of kinds that are not read";
    assert!(said.contains(line) && said.contains(": rows.csv"), "{said}");
    serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap();
}
