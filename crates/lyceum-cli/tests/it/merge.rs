//! `lyceum merge` adds a merged expert that says what it was made of.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};
use lyceum::Name;
use lyceum::expert::{Card, Expert};
use lyceum::library::Library;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::name::Site;
use lyceum::store::Put;

fn lyceum(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lyceum"));
    command.args(args).output().unwrap()
}

fn add(library: &Library, name: &str, rank: usize) {
    let ones = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let lora = Lora::new(ones((rank, 6)), ones((5, rank)), 1.0 / rank as f64).unwrap();
    let card = Card {
        name: Name::new(name).unwrap(),
        base: Some("b".into()),
        base_family: None,
        base_name: "base".into(),
        tasks: vec![Name::new(name).unwrap()],
        lora: LoraConfig::default().rank(rank),
        origin: serde_json::Value::Null,
        losses: Vec::new(),
        weights: String::new(),
    };
    let loras = BTreeMap::from([(Site::new("h.0.q_proj"), lora)]);
    library
        .add(&Expert::new(card, loras).unwrap(), Put::New)
        .unwrap();
}

fn library(dir: &Path, ranks: &[usize]) -> (String, Library) {
    let uri = dir.join("experts").display().to_string();
    let library = Library::create(&uri).unwrap();
    for (name, rank) in ["a", "b"].into_iter().zip(ranks) {
        add(&library, name, *rank);
    }
    (uri, library)
}

#[test]
fn a_merged_expert_says_what_it_was_made_of() {
    let dir = tempfile::tempdir().unwrap();
    let (uri, experts) = library(dir.path(), &[2, 3]);
    let to = dir.path().join("merged").display().to_string();
    let args = [
        "merge",
        &uri,
        "--method",
        "cat",
        "--name",
        "all",
        "--library",
        &to,
    ];
    let weighted = [
        &args[..],
        &["--weights", "a=0.75,b=0.25", "--format", "json"],
    ]
    .concat();
    let output = lyceum(&weighted);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["largest_rank"], 5);
    let merged = Library::open(&to)
        .unwrap()
        .expert(&Name::new("all").unwrap())
        .unwrap();
    assert_eq!(merged.card.origin["merge"]["weights"]["a"], 0.75);
    let a = experts.expert(&Name::new("a").unwrap()).unwrap();
    assert_eq!(merged.card.origin["experts"]["a"], a.fingerprint());
    // The same again changes nothing; another of the same name is refused.
    assert!(lyceum(&weighted).status.success());
    let output = lyceum(&args);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("already exists"));
    assert!(
        lyceum(&[&args[..], &["--replace"]].concat())
            .status
            .success()
    );
}

#[test]
fn what_cannot_be_merged_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let (uri, _) = library(dir.path(), &[2, 3]);
    let cases = [
        (
            &["--method", "factor-linear"][..],
            "merge them with `linear` or `cat`",
        ),
        (
            &["--method", "ties"][..],
            "merge them with `linear` or `cat`",
        ),
        (
            &["--method", "factor-linear", "--weights", "a=1,b=-1"][..],
            "`b` the weight -1",
        ),
        (&["--method", "cat", "--rank", "2"][..], "no setting `rank`"),
        (&["--method", "linear", "--rank", "0"][..], "rank is 0"),
        (&["--method", "slerp"][..], "merge `slerp` not found"),
        (
            &["--method", "dare"][..],
            "the methods are linear, factor-linear",
        ),
        (
            &["--method", "cat", "--density", "0.2"][..],
            "no setting `density`",
        ),
        (
            &["--method", "cat", "--weights", "a=1"][..],
            "`b` is merged but has no weight",
        ),
        (
            &["--method", "cat", "--experts", "aa"][..],
            "expert `aa` not found",
        ),
    ];
    for (case, want) in cases {
        let output = lyceum(&[&["merge", &uri, "--name", "x"], case].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = if want.starts_with("expert") { 3 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{case:?}: {error}");
        assert!(error.contains(want), "{case:?}: {error}");
    }
}

#[test]
fn a_merge_says_its_rank_what_was_cut_and_what_is_odd() {
    let dir = tempfile::tempdir().unwrap();
    let (uri, _) = library(dir.path(), &[2, 2]);
    let run = |args: &[&str]| {
        let output = lyceum(&[&["merge", &uri, "--method"], args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stderr)
        );
        (text(&output.stdout), text(&output.stderr))
    };
    // Both are the same, of one direction: the sum needs rank 1.
    let (out, _) = run(&[
        "linear",
        "--name",
        "sum",
        "--weights",
        "a=2,b=-1",
        "--experts",
        "a,b",
    ]);
    assert!(out.contains("linear of a, b at 1 layers, rank 1"), "{out}");
    let (out, _) = run(&["linear", "--name", "cut", "--rank", "1", "--experts", "a,b"]);
    assert!(out.contains("relative error 0 to the exact sum"), "{out}");
    let (_, err) = run(&[
        "linear",
        "--name",
        "none",
        "--weights",
        "a=1,b=-1",
        "--experts",
        "a,b",
    ]);
    assert!(err.contains("`none` changes nothing"), "{err}");
    let (_, err) = run(&[
        "factor-linear",
        "--name",
        "two",
        "--weights",
        "a=2",
        "--experts",
        "a",
    ]);
    assert!(err.contains("the update is 4 times"), "{err}");
}
