//! Bases: safetensors folders, GGUF files, tokenizers.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use lyceum::backbone::{Base, Chat, Message, Precision};
use lyceum::data::Tokenizer;
use lyceum::rng::Rng;

use super::{mutate, rounds};
use crate::mttl::golden;
use crate::quantised::{self, fields, gguf, wide};

/// Small files of llama.cpp's converter.
const FAMILIES: [&str; 10] = [
    "gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3",
];

#[test]
fn fuzz_bases() {
    let mut rng = Rng::new(5);
    let file = |name: &str| std::fs::read(golden(&format!("gpt-neo-tiny/{name}"))).unwrap();
    let (config, weights) = (file("config.json"), file("model.safetensors"));
    let tokenizer = file("tokenizer.json");
    let open = |config: &[u8], weights: &[u8]| {
        Base::from_bytes("x", config, weights, &tokenizer, Precision::F32)
    };
    assert!(open(&config, &weights).is_ok());
    let header = 8 + u64::from_le_bytes(*weights.first_chunk().unwrap()) as usize;
    for _ in 0..rounds(100) {
        if rng.below(2) == 0 {
            // Digits make claims.
            let mut config = mutate(&mut rng, &config);
            let at = rng.below(config.len().max(1)).min(config.len());
            config.insert(at, b'0' + rng.below(10) as u8);
            let _ = open(&config, &weights);
        } else {
            let mut bytes = mutate(&mut rng, &weights[..header]);
            bytes.extend_from_slice(&weights[header..]);
            let _ = open(&config, &bytes);
        }
    }
}

/// Files of every family, their tokenizers in them, and one of quantised blocks.
#[test]
fn fuzz_gguf() {
    let mut rng = Rng::new(9);
    let dir = tempfile::tempdir().unwrap();
    let blocks = quantised::write(dir.path(), &fields(), &wide(), |_| GgmlDType::Q4K);
    let mut seeds = vec![std::fs::read(&blocks).unwrap()];
    let open = |path: &Path| Base::open(path, Precision::F32);
    assert!(open(&blocks).is_ok());
    for family in FAMILIES {
        let path = gguf(family);
        assert!(open(&path).is_ok(), "{family}");
        seeds.push(std::fs::read(path).unwrap());
    }
    let path = dir.path().join("x.gguf");
    for _ in 0..rounds(300) {
        // Blocks take longer to open than all that may be wrong about them.
        let seed = match rng.below(20) {
            0 => &seeds[0],
            _ => &seeds[1 + rng.below(seeds.len() - 1)],
        };
        // Mostly what comes before the values.
        let end = match rng.below(8) {
            0 => seed.len(),
            _ => seed.len().min(6000),
        };
        let mut bytes = mutate(&mut rng, &seed[..end]);
        bytes.extend_from_slice(&seed[end..]);
        std::fs::write(&path, bytes).unwrap();
        let _ = open(&path);
    }
}

#[test]
fn fuzz_tokenizers() {
    let mut rng = Rng::new(10);
    let dir = tempfile::tempdir().unwrap();
    let names = ["tokenizer.model", "tokenizer.json"];
    let seeds = ["gguf/tokenizer.model", "gpt-neo-tiny/tokenizer.json"]
        .map(|file| std::fs::read(golden(file)).unwrap());
    for _ in 0..rounds(300) {
        let which = rng.below(2);
        let path = dir.path().join(names[which]);
        let bytes = mutate(&mut rng, &seeds[which]);
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::open(dir.path()) {
            let ids = tokenizer.encode("Once upon a time: \u{e9}\n\n 12");
            let _ = ids.and_then(|ids| tokenizer.decode(&ids));
        }
        std::fs::remove_file(&path).unwrap();
    }
}

/// Chat templates, which are run.
#[test]
fn fuzz_chat_templates() {
    let mut rng = Rng::new(11);
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("chat/renderings.json")).unwrap()).unwrap();
    let seeds = golden["renderings"].as_array().unwrap();
    let chat = Chat::default();
    for _ in 0..rounds(300) {
        let seed = &seeds[rng.below(seeds.len())];
        let template = seed["template"].as_str().unwrap().as_bytes();
        let template = mutate(&mut rng, template);
        let messages: Vec<Message> = serde_json::from_value(seed["messages"].clone()).unwrap();
        let _ = chat.render(&String::from_utf8_lossy(&template), &messages);
    }
}
