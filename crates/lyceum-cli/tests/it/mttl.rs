//! Importing, exporting and checking as a user does, and the logits of MTTL's experts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{Device, Tensor};

fn golden(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum/tests/golden");
    root.join(path).to_str().unwrap().to_owned()
}

fn lyceum(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lyceum"))
        .args(args)
        .output()
        .unwrap()
}

fn ok(args: &[&str]) -> String {
    let output = lyceum(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The largest difference of logits at the real positions of the golden batch.
fn apart(library: &str, dir: &Path, method: &str, router: &[&str]) -> f32 {
    let out: PathBuf = dir.join("logits.safetensors");
    let tasks = dir.join("tasks.json");
    let said = std::fs::read(golden("routed.json")).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    std::fs::write(&tasks, said["val_task_names"].to_string()).unwrap();
    let (base, input) = (golden("gpt-neo-tiny"), golden("routed_logits.safetensors"));
    let mut args = vec![
        "logits",
        "--base",
        &base,
        "--library",
        library,
        "--input",
        &input,
    ];
    args.extend([
        "--tasks",
        tasks.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    args.extend(router);
    ok(&args);
    let load = |path: &str| candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let (got, want) = (load(out.to_str().unwrap()), load(&input));
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let mask: Vec<i64> = want["attention_mask"]
        .to_dtype(candle_core::DType::I64)
        .and_then(|t| t.flatten_all()?.to_vec1())
        .unwrap();
    let got = rows(&got["logits"].flatten(0, 1).unwrap());
    let real = got
        .into_iter()
        .zip(mask)
        .filter(|(_, m)| *m != 0)
        .map(|(row, _)| row);
    let want = rows(&want[&format!("logits.{method}")]);
    let real: Vec<Vec<f32>> = real.collect();
    assert_eq!(real.len(), want.len());
    let pairs = real.iter().flatten().zip(want.iter().flatten());
    pairs.fold(0.0, |most: f32, (x, y)| most.max((x - y).abs()))
}

#[test]
fn an_imported_library_gives_the_references_logits_with_every_router() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own").to_str().unwrap().to_owned();
    let (mttl, base) = (golden("mttl-library"), golden("gpt-neo-tiny"));
    let text = ok(&["import", &mttl, &own, "--base", &base]);
    assert!(
        text.contains("12/12 sites") && text.contains("imported 4 experts"),
        "{text}"
    );
    ok(&["import", &mttl, &own, "--base", &base]);
    // One version, and none for the same again.
    let history = ok(&["history", &own, "--format", "json"]);
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 1, "{history}");
    assert_eq!(history[0]["changed"], 4 + 12);
    let methods: &[(&str, &[&str])] = &[
        ("base", &["--router", "base"]),
        ("task_name", &["--router", "oracle"]),
        ("uniform", &["--router", "uniform", "--mixing", "factors"]),
        ("uniform_merge_after", &["--router", "uniform"]),
        (
            "arrow_top2",
            &["--router", "arrow", "--top-k", "2", "--mixing", "factors"],
        ),
        ("arrow_all", &["--router", "arrow", "--mixing", "factors"]),
        (
            "arrow_top2_merge_after",
            &["--router", "arrow", "--top-k", "2"],
        ),
        (
            "arrow_top2_temp0.1",
            &[
                "--router",
                "arrow",
                "--top-k",
                "2",
                "--temperature",
                "0.1",
                "--mixing",
                "factors",
            ],
        ),
        ("phatgoose_top2", &["--router", "phatgoose", "--top-k", "2"]),
    ];
    for (method, router) in methods {
        let far = apart(&own, dir.path(), method, router);
        assert!(far <= 2e-4, "{method}: {far} apart");
    }
    // The folder itself, opened for reading only.
    let far = apart(&mttl, dir.path(), "arrow_top2", methods[4].1);
    assert!(far <= 2e-4, "read-only: {far} apart");
}

#[test]
fn export_and_import_again_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mttl = golden("mttl-library");
    ok(&["export", &mttl, &path("mttl"), "--to", "mttl"]);
    ok(&["import", &path("mttl"), &path("own")]);
    let cards = |uri: &str| -> Vec<String> {
        let cards: serde_json::Value =
            serde_json::from_str(&ok(&["list", uri, "--format", "json"])).unwrap();
        cards
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["weights"].to_string())
            .collect()
    };
    assert_eq!(cards(&path("own")), cards(&mttl));
    assert_eq!(cards(&mttl).len(), 4);
    ok(&["export", &mttl, &path("peft"), "--to", "peft"]);
    assert!(
        Path::new(&path("peft"))
            .join("who_has/adapter_config.json")
            .is_file()
    );
    let output = lyceum(&["list", &mttl, "--format", "mttl"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_says_what_is_wrong_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own").to_str().unwrap().to_owned();
    let (mttl, base) = (golden("mttl-library"), golden("gpt-neo-tiny"));
    ok(&["import", &mttl, &own, "--base", &base]);
    let text = ok(&["check", &own, "--base", &base]);
    assert!(
        text.contains("4 experts and 12 artifacts read, 0 problems"),
        "{text}"
    );
    let folder = dir.path().join("mttl");
    ok(&["export", &mttl, folder.to_str().unwrap(), "--to", "mttl"]);
    for expert in ["who_has", "color_of"] {
        std::fs::write(folder.join(format!("{expert}.ckpt")), b"PK\x03\x04").unwrap();
    }
    let output = lyceum(&["check", folder.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("`who_has`") && text.contains("`color_of`"),
        "{text}"
    );
    assert_eq!(lyceum(&["check", "/nonexistent"]).status.code(), Some(3));
    // What is damaged so that nothing else can be read.
    let wrong = |uri: &str, why: &str| {
        let output = lyceum(&["check", uri]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("wrong: ") && text.contains(why), "{text}");
    };
    let peft = dir.path().join("peft");
    ok(&["export", &mttl, peft.to_str().unwrap(), "--to", "peft"]);
    let adapter = peft.join("who_has");
    let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    let config = config.replace("\"bias\": \"none\"", "\"bias\": \"all\"");
    std::fs::write(adapter.join("adapter_config.json"), config).unwrap();
    wrong(adapter.to_str().unwrap(), "`bias`");
    let manifests = Path::new(&own).join("versions");
    for entry in std::fs::read_dir(&manifests).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|e| e == "json") {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, text.replace("\"root\":\"0:", "\"root\":\"7:")).unwrap();
        }
    }
    wrong(&own, "cannot be read");
}
