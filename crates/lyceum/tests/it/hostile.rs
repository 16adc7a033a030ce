//! Files from outside, mutated: whatever is in them, nothing panics. Seeded; `LYCEUM_FUZZ=100000`
//! sets how many times each target runs.

use std::collections::BTreeMap;

use lyceum::artifact::Artifact;
use lyceum::expert::{Card, Expert};
use lyceum::lora::Lora;
use lyceum::rng::Rng;
use lyceum::torch::{self, Stored, Value};
use lyceum::{Name, mttl, peft};

use crate::mttl::{copy, golden, legacy, text};

mod bases;
mod data;
mod libraries;

fn rounds(usual: usize) -> usize {
    let asked = std::env::var("LYCEUM_FUZZ")
        .ok()
        .and_then(|n| n.parse().ok());
    asked.unwrap_or(usual)
}

/// Cuts, doubles, overwrites and flips bytes, and puts numbers that claim too much.
fn mutate(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        let n = bytes.len().max(1);
        let at = rng.below(n);
        match rng.below(8) {
            0 => bytes.truncate(at),
            1 => {
                let piece = bytes[at..(at + rng.below(40)).min(bytes.len())].to_vec();
                let to = rng.below(n).min(bytes.len());
                bytes.splice(to..to, piece);
            }
            2 => {
                let end = (at + 4).min(bytes.len());
                bytes[at.min(end)..end].fill(0xff);
            }
            3 => {
                let ops = b"()]}.bRQhqjrtueasNKMJGXc\x81\x85\x86\x87\x88\x89\x8a";
                bytes.insert(at.min(bytes.len()), ops[rng.below(ops.len())]);
            }
            4 => {
                let claims = [0, 1, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX];
                let claim = claims[rng.below(claims.len())].to_le_bytes();
                let end = (at + [1, 2, 4, 8][rng.below(4)]).min(n).min(bytes.len());
                let at = at.min(end);
                bytes[at..end].copy_from_slice(&claim[..end - at]);
            }
            5 => {
                // The same where numbers are digits, and where things are nested.
                let texts: [&[u8]; 6] = [b"9", b"99999999999999999999", b"-1", b"[", b"{", b"\""];
                let to = at.min(bytes.len());
                let text = texts[rng.below(texts.len())].repeat(1 + rng.below(3));
                bytes.splice(to..to, text);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes
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
    let (mut rng, seeds) = (Rng::new(1), seeds());
    for _ in 0..rounds(2000) {
        let seed = rng.below(seeds.len());
        let bytes = mutate(&mut rng, &seeds[seed]);
        let _ = torch::tensors(&bytes, "x");
    }
}

#[test]
fn fuzz_pickles() {
    let mut rng = Rng::new(2);
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
        let pickle = mutate(&mut rng, &seeds[seed]);
        if let Ok(Value::Dict(pairs)) = torch::load(&legacy(&pickle), "x") {
            for (_, value) in pairs {
                if let Value::Tensor(stored) = value {
                    let _ = stored.to_f32();
                }
            }
        }
    }
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
        let again = match (rng.below(2), torch::load(&bytes, "x")) {
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
