//! Files from outside, mutated: whatever is in them, nothing panics. Seeded; `LYCEUM_FUZZ=100000`
//! sets how many times each target runs. The readers of single formats are tried in
//! `lyceum-formats`, here what is made of what they read.

use std::collections::BTreeMap;

use lyceum::artifact::Artifact;
use lyceum::expert::{Card, Expert};
use lyceum::lora::Lora;
use lyceum::rng::Rng;
use lyceum::{Name, mttl, peft};
use lyceum_formats::torch::{self, Value};

use crate::mttl::{copy, golden};

mod bases;
mod data;
mod libraries;
#[path = "../../../lyceum-formats/tests/it/mutations.rs"]
mod mutations;

use mutations::rounds;

/// Mutates `seed`, as the readers of `lyceum-formats` are tried.
fn mutate(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    mutations::mutate(&mut |n| rng.below(n), seed)
}

fn expert() -> Expert {
    mttl::read(&golden("mttl-library"))
        .unwrap()
        .experts
        .swap_remove(0)
}

#[test]
fn fuzz_adapters_and_cards() {
    let mut rng = Rng::new(4);
    let expert = expert();
    let files: BTreeMap<&str, Vec<u8>> = peft::encode(&expert).unwrap().into_iter().collect();
    let read = |files: &BTreeMap<&str, Vec<u8>>| peft::decode("x", |f| Ok(files[f].clone()));
    assert!(read(&files).is_ok());
    for _ in 0..rounds(1000) {
        let mut files = files.clone();
        let which = [peft::CARD, peft::WEIGHTS, peft::CONFIG][rng.below(3)];
        // The header is where claims are made.
        let from = &files[which];
        let header = from
            .len()
            .min(if rng.below(4) == 0 { usize::MAX } else { 4000 });
        let mut bytes = mutate(&mut rng, &from[..header]);
        bytes.extend_from_slice(&from[header..]);
        files.insert(which, bytes);
        let _ = read(&files);
        let _ = serde_json::from_slice::<Card>(&files[peft::CARD]);
        let _ = Artifact::decode(&files[peft::WEIGHTS], "x");
    }
}

/// Headers changed and then given their right length again, so that the change is read.
#[test]
fn fuzz_safetensors_headers() {
    let mut rng = Rng::new(3);
    let expert = expert();
    let files: BTreeMap<&str, Vec<u8>> = peft::encode(&expert).unwrap().into_iter().collect();
    let vector = |lora: &Lora| lora.a.get(0).unwrap();
    let artifact = Artifact {
        kind: Name::new("arrow").unwrap(),
        spec: serde_json::json!({ "a": [1, 2] }),
        expert: expert.card.name.clone(),
        made_from: expert.fingerprint().to_owned(),
        vectors: { expert.loras.iter() }
            .map(|(site, lora)| (site.clone(), vector(lora)))
            .collect(),
    };
    let seeds = [artifact.encode().unwrap(), files[peft::WEIGHTS].clone()];
    assert!(Artifact::decode(&seeds[0], "x").is_ok());
    for _ in 0..rounds(1000) {
        let seed = &seeds[rng.below(2)];
        let end = 8 + u64::from_le_bytes(*seed.first_chunk().unwrap()) as usize;
        let header = mutate(&mut rng, &seed[8..end]);
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(&seed[end..]);
        let _ = Artifact::decode(&bytes, "x");
        let _ = peft::decode("x", |file| match file {
            peft::WEIGHTS => Ok(bytes.clone()),
            other => Ok(files[other].clone()),
        });
    }
}

/// PEFT's folders: the configuration, and headers whose names and types were changed.
#[test]
fn fuzz_imports() {
    let mut rng = Rng::new(12);
    let from = crate::golden::path("peft/rslora_patterns");
    let read = |file: &str| std::fs::read(from.join(file)).unwrap();
    let (config, weights) = (read(peft::CONFIG), read(peft::WEIGHTS));
    let end = 8 + u64::from_le_bytes(*weights.first_chunk().unwrap()) as usize;
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, bytes: &[u8]| std::fs::write(dir.path().join(file), bytes).unwrap();
    let name = Name::new("x").unwrap();
    let host = crate::golden::base().host();
    for _ in 0..rounds(300) {
        write(peft::CONFIG, &config);
        write(peft::WEIGHTS, &weights);
        match rng.below(3) {
            0 => write(peft::CONFIG, &mutate(&mut rng, &config)),
            1 => write(peft::WEIGHTS, &mutate(&mut rng, &weights)),
            _ => {
                let header = mutate(&mut rng, &weights[8..end]);
                let len = (header.len() as u64).to_le_bytes();
                write(
                    peft::WEIGHTS,
                    &[&len, &header[..], &weights[end..]].concat(),
                );
            }
        }
        let _ = peft::import(dir.path(), &name, None);
        let _ = peft::import(dir.path(), &name, Some(&host));
    }
}

/// One expert of MTTL's with all its data: another would only be read again at every round.
#[test]
fn fuzz_mttl_folders() {
    let mut rng = Rng::new(7);
    let dir = copy();
    let mut paths = Vec::new();
    for entry in dir.path().read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.starts_with("who_has") {
            true => paths.push(path),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
    paths.sort();
    assert_eq!(paths.len(), 7);
    for _ in 0..rounds(100) {
        let path = &paths[rng.below(paths.len())];
        let bytes = std::fs::read(path).unwrap();
        let again = match (rng.below(2), torch::load(&bytes)) {
            // Values that belong together, but to another file: no checksum is in the way.
            (0, Ok(Value::Dict(mut pairs))) => {
                let (i, j) = (rng.below(pairs.len()), rng.below(pairs.len()));
                let value = pairs[j].1.clone();
                pairs[i].1 = value;
                torch::save(&Value::Dict(pairs)).unwrap()
            }
            _ => mutate(&mut rng, &bytes),
        };
        std::fs::write(path, again).unwrap();
        // `read` is this and its first error.
        let _ = mttl::scan(dir.path());
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(mttl::read(dir.path()).unwrap().experts.len(), 1);
}
