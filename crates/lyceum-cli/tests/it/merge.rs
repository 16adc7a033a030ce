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
        lora: LoraConfig {
            rank,
            ..LoraConfig::default()
        },
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
    assert_eq!(output.status.code(), Some(2));
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
        (&["--method", "linear"][..], "merge them with `cat`"),
        (&["--method", "slerp"][..], "merge `slerp` not found"),
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
        assert_eq!(output.status.code(), Some(2), "{case:?}: {error}");
        assert!(error.contains(want), "{case:?}: {error}");
    }
}
