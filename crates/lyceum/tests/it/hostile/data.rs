//! Rows: JSON in all its shapes, packed files, parquet, Arrow, folders that describe themselves.

use std::path::Path;

use lyceum::data::{Dataset, Question};
use lyceum::rng::Rng;

use super::{mutate, rounds};
use crate::data::packed;
use crate::mttl::golden;
use crate::parquet::{self, Kind};

/// The first rows of the four tasks.
fn lines() -> Vec<u8> {
    let rows = std::fs::read(golden("tasks.jsonl")).unwrap();
    let first = { rows.split_inclusive(|byte| *byte == b'\n') }.take(5);
    first.flatten().copied().collect()
}

#[test]
fn fuzz_rows() {
    let mut rng = Rng::new(8);
    let lines = String::from_utf8(lines()).unwrap();
    let list = format!("[{}]", lines.trim_end().replace('\n', ","));
    let odd = lines
        .replace('{', "{\"x\":[NaN,{\"y\":\"\\ud83d\\n\"}],")
        .replace("Gus", r"\u0047us\ud83d");
    let wide: Vec<u8> = format!("\u{feff}{lines}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let seeds: [Vec<u8>; 6] = [
        format!("{{\"schema\": {{}}, \"data\": {list}}}").into(),
        lines.replace(", \"", ",\n\"").into(),
        lines.into(),
        list.into(),
        odd.into(),
        wide,
    ];
    for seed in &seeds {
        assert_eq!(Dataset::from_jsonl(seed, "x").unwrap().examples.len(), 5);
    }
    let questions = br#"{"query": "q", "choices": ["a", "b\u00e9"], "gold": 1, "x": [NaN]}"#;
    assert_eq!(Question::from_jsonl(questions, "x").unwrap().len(), 1);
    for _ in 0..rounds(2000) {
        let seed = rng.below(seeds.len());
        let _ = Dataset::from_jsonl(&mutate(&mut rng, &seeds[seed]), "x");
        let _ = Question::from_jsonl(&mutate(&mut rng, questions), "x");
    }
}

#[test]
fn fuzz_packed_rows() {
    let mut rng = Rng::new(10);
    let seeds = packed(&lines()).map(|(_, bytes)| bytes);
    for seed in &seeds {
        assert_eq!(Dataset::from_jsonl(seed, "x").unwrap().examples.len(), 5);
    }
    for _ in 0..rounds(500) {
        let seed = rng.below(seeds.len());
        let _ = Dataset::from_jsonl(&mutate(&mut rng, &seeds[seed]), "x");
    }
}

/// Mutations of the `seeds`, opened as `name`.
fn files(rng: &mut Rng, name: &str, seeds: &[Vec<u8>], usual: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    for seed in seeds {
        std::fs::write(&path, seed).unwrap();
        assert!(!Dataset::open(&path).unwrap().examples.is_empty());
    }
    for _ in 0..rounds(usual) {
        let seed = rng.below(seeds.len());
        std::fs::write(&path, mutate(rng, &seeds[seed])).unwrap();
        let _ = Dataset::open(&path);
    }
}

fn held(names: &[&str]) -> Vec<Vec<u8>> {
    let read = |name: &&str| std::fs::read(golden(&format!("data/{name}"))).unwrap();
    names.iter().map(read).collect()
}

#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn fuzz_parquet() {
    let seeds = [Kind::Plain, Kind::Snappy, Kind::Zstd, Kind::V2].map(parquet::rows);
    files(&mut Rng::new(6), "rows.parquet", &seeds, 500);
}

#[test]
#[cfg_attr(not(feature = "parquet"), ignore = "needs the feature `parquet`")]
fn fuzz_parquet_codecs() {
    let seeds = held(&[
        "gzip.parquet",
        "brotli.parquet",
        "lz4.parquet",
        "pages2.parquet",
    ]);
    files(&mut Rng::new(11), "rows.parquet", &seeds, 500);
}

#[test]
fn fuzz_arrow() {
    let seeds = held(&[
        "plain.arrow",
        "file.arrow",
        "lz4.arrow",
        "zstd.arrow",
        "views.arrow",
        "dictionaries.arrow",
        "growing.arrow",
        "old.arrow",
        "saved/test/data-00000-of-00001.arrow",
    ]);
    // The last holds no split, so its file's name says one.
    files(&mut Rng::new(12), "test.arrow", &seeds, 1000);
}

/// Only the claims: a stream's first messages, their bodies left alone.
#[test]
fn fuzz_arrow_claims() {
    let mut rng = Rng::new(13);
    let seeds = held(&["plain.arrow", "views.arrow", "dictionaries.arrow"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.arrow");
    for _ in 0..rounds(1000) {
        let mut bytes = seeds[rng.below(seeds.len())].clone();
        let end = bytes.len().min(2500);
        for _ in 0..=rng.below(3) {
            let at = rng.below(end);
            let claims = [0u64, 1, 0x7f, 1 << 16, 1 << 31, 1 << 40, 1 << 63, u64::MAX];
            let claim = claims[rng.below(claims.len())].to_le_bytes();
            let width = [1, 2, 4, 8][rng.below(4)].min(end - at);
            bytes[at..at + width].copy_from_slice(&claim[..width]);
        }
        std::fs::write(&path, &bytes).unwrap();
        let _ = Dataset::open(&path);
    }
}

#[test]
fn fuzz_folders_that_describe_themselves() {
    let mut rng = Rng::new(14);
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("train")).unwrap();
    let shard = &held(&["saved/train/data-00000-of-00002.arrow"])[0];
    std::fs::write(at("train/data-00000-of-00001.arrow"), shard).unwrap();
    let readme = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: train/d*\n  \
                  - split: test\n    path: [\"**/data-[0-9]*\"]\n---\n";
    let seeds: [(&str, Vec<u8>); 3] = [
        ("dataset_dict.json", br#"{"splits": ["train"]}"#.to_vec()),
        (
            "train/state.json",
            br#"{"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}"#
                .to_vec(),
        ),
        ("README.md", readme.into()),
    ];
    for (path, bytes) in &seeds {
        std::fs::write(at(path), bytes).unwrap();
        let opened = Dataset::open(dir.path());
        assert!(!opened.unwrap().examples.is_empty(), "{path}");
    }
    for _ in 0..rounds(300) {
        let (path, seed): &(&str, Vec<u8>) = &seeds[rng.below(seeds.len())];
        std::fs::write(at(path), mutate(&mut rng, seed)).unwrap();
        let _ = Dataset::open(Path::new(dir.path()));
        std::fs::write(at(path), seed).unwrap();
    }
}
