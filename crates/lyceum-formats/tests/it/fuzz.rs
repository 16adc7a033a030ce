//! Good files, mutated: whatever is in them, no reader panics. Seeded; `LYCEUM_FUZZ=100000` sets how
//! many times each target runs.

use std::path::{Path, PathBuf};

use lyceum_formats::compression::{Budget, Packing};
use lyceum_formats::gguf::{Header, Value as Field};
use lyceum_formats::torch::{self, Stored, Value};
use lyceum_formats::{TextColumn, arrow, sentencepiece};

use crate::mutations::rounds;
use crate::random::Random;
use crate::torch::{legacy, text};

/// Files of other tools, which the tests of Lyceum use too.
fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../lyceum/tests/golden")
        .join(path)
}

fn files(names: &[&str]) -> Vec<Vec<u8>> {
    let read = |name: &&str| std::fs::read(golden(name)).unwrap();
    names.iter().map(read).collect()
}

/// The numbers of all tensors of a file.
fn whole(bytes: &[u8]) -> lyceum_formats::Result<usize> {
    let numbers = |(_, stored): (String, Stored<'_>)| Ok(stored.to_f32()?.len());
    torch::stored(bytes)?.into_iter().map(numbers).sum()
}

fn seeds() -> Vec<Vec<u8>> {
    let small = [
        "who_has.meta",
        "who_has.phatgoosetransformconfig-38fe97c3dc9c5e1f6c8f1d50b9bbb8f3.bin",
    ];
    let mut seeds: Vec<Vec<u8>> = small
        .iter()
        .map(|file| std::fs::read(golden(&format!("mttl-library/{file}"))).unwrap())
        .collect();
    let tensor = Value::Tensor(Box::new(Stored::tensor(
        &[2, 3],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    )));
    seeds.push(torch::save(&Value::Dict(vec![(text("h.lora_a"), tensor)])).unwrap());
    seeds
}

#[test]
fn fuzz_zip_containers() {
    let (mut rng, seeds) = (Random(1), seeds());
    for _ in 0..rounds(2000) {
        let seed = rng.below(seeds.len());
        let bytes = rng.mutated(&seeds[seed]);
        let _ = whole(&bytes);
    }
}

#[test]
fn fuzz_pickles() {
    let mut rng = Random(2);
    let seeds: Vec<Vec<u8>> = seeds()
        .iter()
        .map(|file| {
            // The pickle inside the stored zip: from its header to its end.
            let start = file.windows(2).position(|w| w == b"\x80\x02").unwrap();
            let end = file
                .windows(4)
                .skip(start)
                .position(|w| w == b"PK\x03\x04" || w == b"PK\x07\x08");
            file[start..start + end.unwrap()].to_vec()
        })
        .collect();
    for _ in 0..rounds(2000) {
        let seed = rng.below(seeds.len());
        let pickle = rng.mutated(&seeds[seed]);
        if let Ok(Value::Dict(pairs)) = torch::load(&legacy(&pickle)) {
            for (_, value) in pairs {
                if let Value::Tensor(stored) = value {
                    let _ = stored.to_f32();
                }
            }
        }
    }
}

#[test]
fn fuzz_gguf_headers() {
    let (mut rng, seeds) = (
        Random(3),
        files(&["gguf/llama.gguf", "gguf/gpt2.gguf", "gguf/gemma.gguf"]),
    );
    assert!(seeds.iter().all(|seed| Header::read(seed).is_ok()));
    for _ in 0..rounds(1000) {
        let seed = &seeds[rng.below(seeds.len())];
        let end = seed.len().min(6000);
        let mut bytes = rng.mutated(&seed[..end]);
        bytes.extend_from_slice(&seed[end..]);
        let Ok(header) = Header::read(&bytes) else {
            continue;
        };
        for value in header.fields.values() {
            if let Field::List(list) = value {
                assert_eq!(list.iter().count(), list.len());
            }
        }
        assert!(header.tensors.values().all(|t| t.range.end <= bytes.len()));
    }
}

#[test]
fn fuzz_sentencepiece_models() {
    let (mut rng, seeds) = (Random(4), files(&["gguf/tokenizer.model"]));
    assert!(sentencepiece::read(&seeds[0]).is_ok());
    for _ in 0..rounds(1000) {
        let _ = sentencepiece::read(&rng.mutated(&seeds[0]));
    }
}

#[test]
fn fuzz_compressed_files() {
    let mut rng = Random(5);
    let seeds = files(&["gguf/stories260K-Q4_K_M.gguf.zst"]);
    let unpack = |bytes: &[u8]| {
        let budget = Budget::new(bytes.len() as u64);
        Packing::of(bytes).map(|packing| packing.unpack(bytes, &budget))
    };
    assert!(unpack(&seeds[0]).unwrap().is_ok());
    for _ in 0..rounds(50) {
        let _ = unpack(&rng.mutated(&seeds[0]));
    }
}

/// The columns of a set of rows.
const COLUMNS: [TextColumn<'static>; 3] = [
    TextColumn {
        name: "source",
        required: true,
        list: false,
    },
    TextColumn {
        name: "target",
        required: true,
        list: true,
    },
    TextColumn {
        name: "split",
        required: false,
        list: false,
    },
];

/// Reads mutations of `seeds`, whose rows `count` counts.
fn tables(
    rng: &mut Random,
    seeds: &[Vec<u8>],
    count: fn(std::fs::File) -> lyceum_formats::Result<usize>,
) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let counted = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        count(std::fs::File::open(&path).unwrap())
    };
    for seed in seeds {
        assert!(counted(seed).unwrap() > 0);
    }
    for _ in 0..rounds(500) {
        let seed = &seeds[rng.below(seeds.len())];
        let _ = counted(&rng.mutated(seed));
    }
}

#[test]
fn fuzz_arrow_files() {
    let seeds = files(&[
        "data/plain.arrow",
        "data/file.arrow",
        "data/lz4.arrow",
        "data/zstd.arrow",
        "data/views.arrow",
        "data/dictionaries.arrow",
        "data/growing.arrow",
        "data/old.arrow",
    ]);
    tables(&mut Random(6), &seeds, |file| {
        let batches = arrow::Reader::open(file, COLUMNS)?;
        batches.map(|batch| Ok(batch?.len())).sum()
    });
}

#[cfg(feature = "parquet")]
#[test]
fn fuzz_parquet_files() {
    let seeds = files(&[
        "data/gzip.parquet",
        "data/brotli.parquet",
        "data/lz4.parquet",
        "data/pages2.parquet",
        "data/snappy.parquet",
        "data/zstd.parquet",
        "data/none.parquet",
    ]);
    tables(&mut Random(7), &seeds, |file| {
        let batches = lyceum_formats::parquet::Reader::open(file, COLUMNS)?;
        batches.map(|batch| Ok(batch?.len())).sum()
    });
}
