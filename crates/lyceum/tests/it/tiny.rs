//! A small random base and a few small tasks, for tests of what surrounds a model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use lyceum::rng::Rng;
use serde_json::json;

/// The tokenizer of the embedded base (4096 tokens).
const TOKENIZER: &[u8] = lyceum_assets::base::TOKENIZER;
const VOCAB: usize = 4096;
const WIDTH: usize = 16;
const LAYERS: usize = 2;
const POSITIONS: usize = 128;

/// Writes a GPT-Neo of width 16 with weights drawn from `seed` into `dir`.
pub(crate) fn write_base(dir: &Path, seed: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let config = json!({
        "model_type": "gpt_neo", "vocab_size": VOCAB, "hidden_size": WIDTH, "num_layers": LAYERS,
        "num_heads": 2, "max_position_embeddings": POSITIONS, "window_size": 8,
        "attention_types": [[["global", "local"], 1]], "activation_function": "gelu_new",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), TOKENIZER).unwrap();
    let bytes = safetensors::serialize(weights(seed), None).unwrap();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

fn weights(seed: u64) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let n = shape.iter().product();
        let values = match name.as_str() {
            name if name.contains("ln_") && name.ends_with("weight") => vec![1.0; n],
            name if name.ends_with("bias") => vec![0.0; n],
            name => Rng::named(seed, name).normal(n, 0.3),
        };
        all.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("transformer.wte.weight".into(), &[VOCAB, WIDTH]);
    add("transformer.wpe.weight".into(), &[POSITIONS, WIDTH]);
    for i in 0..LAYERS {
        let at = |path: &str| format!("transformer.h.{i}.{path}");
        for norm in ["ln_1", "ln_2"] {
            add(at(&format!("{norm}.weight")), &[WIDTH]);
            add(at(&format!("{norm}.bias")), &[WIDTH]);
        }
        for proj in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            add(
                at(&format!("attn.attention.{proj}.weight")),
                &[WIDTH, WIDTH],
            );
        }
        add(at("attn.attention.out_proj.bias"), &[WIDTH]);
        add(at("mlp.c_fc.weight"), &[4 * WIDTH, WIDTH]);
        add(at("mlp.c_fc.bias"), &[4 * WIDTH]);
        add(at("mlp.c_proj.weight"), &[WIDTH, 4 * WIDTH]);
        add(at("mlp.c_proj.bias"), &[WIDTH]);
    }
    add("transformer.ln_f.weight".into(), &[WIDTH]);
    add("transformer.ln_f.bias".into(), &[WIDTH]);
    all
}

/// Rows of `tasks` small tasks, as JSON lines: 8 train, 1 validation, 2 test each.
pub(crate) fn rows(tasks: usize) -> String {
    let mut text = String::new();
    let split = |i: usize| match i {
        0..8 => "train",
        8 => "validation",
        _ => "test",
    };
    for task in 0..tasks {
        for i in 0..11 {
            let source = format!(
                "Task {task}: what comes after {i}?\nNumbers: {}",
                "x ".repeat(i)
            );
            let row = json!({
                "source": source, "target": format!("{} and {task}", i + 1),
                "task_name": format!("task_{task}"), "task_source": "test",
                "template_type": "zs_noopt", "split": split(i),
            });
            text += &format!("{row}\n");
        }
    }
    text
}
