//! Tensors of a checkpoint that contradict its configuration or each other, names and types that
//! programs leave behind, and files that are not what they should be.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lyceum::backbone::{Base, BaseInfo, Precision};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::bases::{changed, laid_as, write};
use crate::families::{TOKENIZER, Tensors, apart, base, folder, logits, sequences, tensors};
use crate::gguf::whole;

const ONE: &str = "model.safetensors";

fn why(result: lyceum::Result<Base>) -> String {
    result.map_or_else(|e| whole(&e), |_| panic!("it opens"))
}

/// A base of the family whose tensors `change` changed.
fn with(
    family: &str,
    changes: &serde_json::Value,
    change: impl Fn(&mut Tensors),
) -> lyceum::Result<Base> {
    laid_as(family, changes, |dir, mut all| {
        change(&mut all);
        write(&dir.join(ONE), &all, DType::F32);
    })
}

/// A matrix whose rows or columns stand the other way round.
fn reversed(matrix: &Tensor, dim: usize) -> Tensor {
    let places: Vec<u32> = (0..matrix.dims()[dim] as u32).rev().collect();
    let places = Tensor::new(places, &Device::Cpu).unwrap();
    matrix.index_select(&places, dim).unwrap()
}

/// The names of head and embedding.
const TIED: [(&str, &str, &str); 3] = [
    ("gemma", "lm_head.weight", "model.embed_tokens.weight"),
    ("gpt2", "lm_head.weight", "transformer.wte.weight"),
    ("gpt_neo", "lm_head.weight", "transformer.wte.weight"),
];

#[test]
fn a_tied_head_is_the_embedding_or_used_or_refused() {
    let none = json!({});
    for (family, head, tokens) in TIED {
        let want = base(family);
        let golden = tensors(&folder(family).join("golden.safetensors"));
        // An equal copy is the embedding, and so is a head that is all there is.
        let same = with(family, &none, |all| {
            let own = all[tokens].clone();
            all.insert(head.into(), own);
        });
        let only = with(family, &none, |all| {
            let own = all.remove(tokens).unwrap();
            all.insert(head.into(), own);
        });
        for same in [same.unwrap(), only.unwrap()] {
            assert_eq!(same.fingerprint, want.fingerprint, "{family}");
            assert!(same.notes.is_empty(), "{:?}", same.notes);
        }
        // Another one is used, as the base without the flag uses it, and told.
        let other = |all: &mut Tensors| {
            let own = all[tokens].to_dtype(DType::F32).unwrap();
            all.insert(head.into(), reversed(&own, 0));
        };
        let own = with(family, &none, other).unwrap();
        let plain = with(family, &json!({ "tie_word_embeddings": false }), other).unwrap();
        assert_eq!(own.fingerprint, plain.fingerprint, "{family}");
        assert_ne!(own.fingerprint, want.fingerprint, "{family}");
        assert_eq!(own.family_fingerprint, want.family_fingerprint, "{family}");
        let both = sequences(&golden);
        let got = logits(&own, &both, None);
        assert!(apart(&got, &golden["logits"]) > 0.1, "{family}");
        // The rows of the head are those of the embedding in reverse, and so are the logits.
        assert!(
            apart(&reversed(&got, 1), &golden["logits"]) < 2e-4,
            "{family}"
        );
        let note = &own.notes[0];
        assert!(note.contains(head) && note.contains(tokens), "{note}");
        assert!(plain.notes.is_empty());
        // One of another shape is refused, both named.
        let said = why(with(family, &none, |all| {
            let own = Tensor::zeros((50, 16), DType::F32, &Device::Cpu).unwrap();
            all.insert(head.into(), own);
        }));
        assert!(said.contains(head) && said.contains(tokens), "{said}");
    }
    // Where the configuration ties nothing, a missing head is missing.
    let said = why(with("llama", &none, |all| {
        all.remove("lm_head.weight");
    }));
    assert!(said.contains("tie_word_embeddings"), "{said}");
}

#[test]
fn a_summary_lists_what_the_owner_may_not_expect() {
    let dir = tempfile::tempdir().unwrap();
    let config = changed("llama", &json!({ "sliding_window": 9 }));
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    let all = tensors(&folder("llama").join(ONE));
    write(&dir.path().join(ONE), &all, DType::F32);
    let index = json!({ "weight_map": { "x": "gone.safetensors" } }).to_string();
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let summary = BaseInfo::open(dir.path()).unwrap();
    let base = Base::open(dir.path(), Precision::F32).unwrap();
    assert_eq!(summary.notes, base.notes);
    assert_eq!(base.notes.len(), 2);
    assert!(
        base.notes[0].contains("`sliding_window` (9)"),
        "{:?}",
        base.notes
    );
    assert!(
        base.notes[1].contains("model.safetensors.index.json"),
        "{:?}",
        base.notes
    );
    assert_eq!(BaseInfo::of(&base).unwrap().notes, base.notes);
}

#[test]
fn parts_of_names_that_programs_leave_behind_are_taken_off() {
    type Rename = fn(&str) -> String;
    let none = json!({});
    let renamed = |family: &str, rename: Rename| {
        with(family, &none, |all| {
            let old = std::mem::take(all);
            all.extend(
                old.into_iter()
                    .map(|(name, tensor)| (rename(&name), tensor)),
            );
        })
    };
    let cases: [(&str, Rename); 6] = [
        ("llama", |name| format!("_orig_mod.{name}")),
        ("llama", |name| format!("module._orig_mod.{name}")),
        ("gpt2", |name| {
            name.replace("transformer.h.", "transformer.h._orig_mod.")
        }),
        ("gpt2", |name| {
            format!("_orig_mod.{}", name.replace("transformer.", ""))
        }),
        ("phi", |name| {
            name.replace(".mlp.", "._fsdp_wrapped_module.mlp.")
        }),
        // transformers 5 calls GPT-NeoX's head as all others.
        ("gpt_neox", |name| name.replace("embed_out", "lm_head")),
    ];
    for (family, rename) in cases {
        let got = renamed(family, rename).unwrap();
        assert_eq!(got.fingerprint, base(family).fingerprint, "{family}");
    }
    let twice = why(with("llama", &none, |all| {
        let norm = all["model.norm.weight"].clone();
        all.insert("_orig_mod.model.norm.weight".into(), norm);
    }));
    assert!(
        twice.contains("`model.norm.weight` under two names"),
        "{twice}"
    );
}

#[test]
fn what_is_known_to_change_nothing_is_left_out_and_nothing_else() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let put = |family: &str, name: &str, tensor: Tensor| {
        laid_as(family, &json!({}), |dir, mut all| {
            all.insert(name.into(), tensor.clone());
            let bytes = safetensors::serialize(all, None).unwrap();
            std::fs::write(dir.join(ONE), bytes).unwrap();
        })
    };
    for (family, name, tensor) in [
        (
            "gpt2",
            "transformer.h.0.attn.bias",
            zeros(&[1, 1, 64, 64], DType::U8),
        ),
        (
            "gpt2",
            "transformer.h.0.attn.masked_bias",
            zeros(&[], DType::F32),
        ),
        (
            "gpt_neo",
            "transformer.h.1.attn.attention.bias",
            zeros(&[1, 1, 64, 64], DType::U8),
        ),
        (
            "gpt_neox",
            "gpt_neox.layers.0.attention.bias",
            zeros(&[1, 1, 64, 64], DType::F32),
        ),
        (
            "gpt_neox",
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            zeros(&[2], DType::F32),
        ),
        (
            "llama",
            "model.rotary_emb.inv_freq",
            zeros(&[2], DType::F32),
        ),
        (
            "llama",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            zeros(&[2], DType::F32),
        ),
    ] {
        let got = put(family, name, tensor).unwrap();
        assert_eq!(got.fingerprint, base(family).fingerprint, "{name}");
    }
    for (family, name, tensor) in [
        (
            "gpt_neox",
            "gpt_neox.layers.0.attention.bias",
            zeros(&[16], DType::F32),
        ),
        (
            "gpt2",
            "transformer.h.0.attn.rotary_emb.inv_freq",
            zeros(&[2], DType::F32),
        ),
        (
            "llama",
            "model.layers.0.mlp.gate_proj.weight_scale_inv",
            zeros(&[1], DType::F32),
        ),
        (
            "llama",
            "model.layers.0.mlp.gate_proj.qzeros",
            zeros(&[1, 4], DType::I64),
        ),
        ("llama", "score.weight", zeros(&[2, 16], DType::F32)),
    ] {
        let said = why(put(family, name, tensor));
        assert!(said.contains(name), "{said}");
    }
}

/// Writes tensors of one file as bytes of a type.
fn write_as(path: &Path, all: &Tensors, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = all
        .iter()
        .map(|(name, tensor)| {
            let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
            let values: Vec<f32> = flat.to_vec1().unwrap();
            let raw = values.into_iter().flat_map(&bytes).collect();
            (name.clone(), tensor.dims().to_vec(), raw)
        })
        .collect();
    let views = data.iter().map(|(name, shape, raw)| {
        let view = TensorView::new(dtype, shape.clone(), raw).unwrap();
        (name.as_str(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn types_of_numbers_are_read_or_named() {
    let as_type = |dtype: Dtype, changes: &serde_json::Value, bytes: &dyn Fn(f32) -> Vec<u8>| {
        laid_as("llama", changes, |dir, all| {
            write_as(&dir.join(ONE), &all, dtype, bytes);
        })
    };
    let none = json!({});
    let wide = as_type(Dtype::F64, &none, &|x| f64::from(x).to_le_bytes().to_vec());
    assert_eq!(wide.unwrap().fingerprint, base("llama").fingerprint);
    // The upper half of an f16, and what it stands for.
    let byte = |x: f32| vec![half::f16::from_f32(x).to_bits().to_le_bytes()[1]];
    let value = |x: f32| half::f16::from_bits(u16::from(byte(x)[0]) << 8).to_f32();
    let eight = as_type(Dtype::F8_E5M2, &none, &byte).unwrap();
    let same = as_type(Dtype::F32, &none, &|x| value(x).to_le_bytes().to_vec()).unwrap();
    assert_eq!(eight.fingerprint, same.fingerprint);
    assert_ne!(eight.fingerprint, base("llama").fingerprint);
    // Under a quantisation they would have to be multiplied by something.
    let fp8 = json!({ "quantization_config": { "quant_method": "fp8" } });
    let said = why(as_type(Dtype::F8_E5M2, &fp8, &byte));
    assert!(said.contains("`quantization_config` (fp8)"), "{said}");
    let said = why(as_type(Dtype::I8, &none, &|x| vec![x as i8 as u8]));
    assert!(said.contains("kept as I8"), "{said}");
    // Plain numbers are what they are, whatever the configuration says of a quantisation.
    let merged = json!({ "quantization_config": { "quant_method": "bitsandbytes" } });
    let plain = with("llama", &merged, |_| {}).unwrap();
    assert_eq!(plain.fingerprint, base("llama").fingerprint);
    assert!(plain.notes[0].contains("`quantization_config` (bitsandbytes)"));
}

#[test]
fn files_that_are_not_what_they_should_be_are_recognised() {
    let put = |name: &str, bytes: &[u8]| {
        why(laid_as("llama", &json!({}), |dir, _| {
            std::fs::write(dir.join(name), bytes).unwrap();
        }))
    };
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n";
    for name in [ONE, "pytorch_model.bin"] {
        let said = put(name, pointer);
        assert!(
            said.contains("git lfs pull") && said.contains(name),
            "{said}"
        );
    }
    let said = why(laid_as("llama", &json!({}), |dir, all| {
        write(&dir.join(ONE), &all, DType::F32);
        std::fs::write(dir.join("tokenizer.json"), pointer).unwrap();
    }));
    assert!(
        said.contains("git lfs pull") && said.contains("tokenizer.json"),
        "{said}"
    );
    assert!(put(ONE, b"").contains("is empty"));
    assert!(put(ONE, b"<!DOCTYPE html>\n<html>").contains("web page"));
    assert!(put(ONE, b"tiny").contains("4 bytes"));
    assert!(put("pytorch_model.bin", b"tiny tiny").contains("pytorch_model.bin"));
    let cut = why(laid_as("llama", &json!({}), |dir, all| {
        write(&dir.join(ONE), &all, DType::F32);
        let bytes = std::fs::read(dir.join(ONE)).unwrap();
        std::fs::write(dir.join(ONE), &bytes[..bytes.len() - 7]).unwrap();
    }));
    assert!(cut.contains("in part") && cut.contains(ONE), "{cut}");
    for raw in ["Metadata", "InvalidHeader", "Deserial"] {
        assert!(!cut.contains(raw), "{cut}");
    }
    let index = json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors" } });
    let missing = why(laid_as("llama", &json!({}), |dir, all| {
        write(&dir.join("model-1.safetensors"), &all, DType::F32);
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }));
    assert!(missing.contains(": model-2.safetensors;"), "{missing}");
    let name = "model.layers.0.mlp.up_proj.weight";
    let gathered = why(with("llama", &json!({}), |all| {
        let empty = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
        all.insert(name.into(), empty);
    }));
    assert!(
        gathered.contains("ZeRO-3") && gathered.contains(name),
        "{gathered}"
    );
    // A folder that holds something else.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    let said = why(Base::open(dir.path(), Precision::F32));
    assert!(said.contains("adapter"), "{said}");
    let shard = "model-00001-of-00002.safetensors";
    assert!(put(shard, b"x").contains("the index that names the shards"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.gguf"), "GGUF").unwrap();
    let said = why(Base::open(dir.path(), Precision::F32));
    assert!(said.contains("`m.gguf`"), "{said}");
}
