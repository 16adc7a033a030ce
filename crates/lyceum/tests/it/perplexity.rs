//! The cost of rounding: perplexity of a trained model on held-out texts.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{Device, Tensor};
use lyceum::backbone::{Base, Precision};

use crate::families::{folder, llama2c, logits, tensors};
use crate::quantised::{WIDTH, fields, gguf, write};

/// A trained model as a folder of f32, and texts it was not trained on, as tokens.
pub(crate) fn stories() -> (tempfile::TempDir, Vec<Vec<u32>>) {
    let from = folder("../stories260K");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    llama2c::convert(&read("stories260K.bin"), &read("tok512.bin"), dir.path()).unwrap();
    let tokenizer = lyceum::data::Tokenizer::open(dir.path()).unwrap();
    let texts = std::fs::read_to_string(folder("../gguf/held_out.txt")).unwrap();
    let texts = texts.lines().map(|line| tokenizer.text(line, 512).unwrap());
    let texts = texts.collect();
    (dir, texts)
}

fn perplexity(base: &Base, texts: &[Vec<u32>]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for text in texts {
        let all = logits(base, std::slice::from_ref(text), None);
        let rows = all.narrow(0, 0, text.len() - 1).unwrap();
        let losses = lyceum::ops::cross_entropy(&rows, &text[1..].to_vec().into()).unwrap();
        sum += f64::from(losses.sum_all().unwrap().to_scalar::<f32>().unwrap());
        count += text.len() - 1;
    }
    (sum / f64::from(u32::try_from(count).unwrap())).exp()
}

/// The model as ggml's tensors, made wide enough for blocks of 256 without changing what it
/// computes: four times the width, the heads and most of the MLP, all that is new being zero. A
/// norm then divides by half as much, so its weights are halved.
fn widened(
    dir: &Path,
) -> (
    BTreeMap<&'static str, Value>,
    BTreeMap<&'static str, Tensor>,
) {
    let all = tensors(&dir.join("model.safetensors"));
    let to = |name: &str, rows: usize| {
        let t = &all[name];
        let t = t.pad_with_zeros(0, 0, rows - t.dims()[0]).unwrap();
        match t.rank() {
            1 => (t / 2.0).unwrap(),
            _ => t.pad_with_zeros(1, 0, WIDTH - t.dims()[1]).unwrap(),
        }
    };
    // Pairs that turn lie side by side in ggml's file, half a head apart in the folder's.
    let paired = |t: Tensor| {
        let n = t.dims()[0] as u32;
        let row = |at: u32| at / 8 * 8 + at % 2 * 4 + at % 8 / 2;
        let order: Vec<u32> = (0..n).map(row).collect();
        let order = Tensor::from_vec(order, n as usize, &Device::Cpu).unwrap();
        t.index_select(&order, 0).unwrap()
    };
    let mut found = BTreeMap::from([
        ("token_embd.weight", to("model.embed_tokens.weight", 512)),
        ("output_norm.weight", to("model.norm.weight", WIDTH)),
    ]);
    for block in 0..5 {
        let own = |name: &str, rows| to(&format!("model.layers.{block}.{name}.weight"), rows);
        for (ggml, t) in [
            ("attn_norm", own("input_layernorm", WIDTH)),
            ("ffn_norm", own("post_attention_layernorm", WIDTH)),
            ("attn_q", paired(own("self_attn.q_proj", WIDTH))),
            ("attn_k", paired(own("self_attn.k_proj", WIDTH / 2))),
            ("attn_v", own("self_attn.v_proj", WIDTH / 2)),
            ("attn_output", own("self_attn.o_proj", WIDTH)),
            ("ffn_gate", own("mlp.gate_proj", WIDTH)),
            ("ffn_up", own("mlp.up_proj", WIDTH)),
            ("ffn_down", own("mlp.down_proj", WIDTH)),
        ] {
            let name: &'static str = format!("blk.{block}.{ggml}.weight").leak();
            found.insert(name, t);
        }
    }
    let mut said = fields();
    let number = |n: u32| Value::U32(n);
    said.extend([
        ("llama.block_count", number(5)),
        ("llama.context_length", number(512)),
        ("llama.feed_forward_length", number(WIDTH as u32)),
        ("llama.attention.head_count", number(32)),
        ("llama.attention.head_count_kv", number(16)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(2.5e-6)),
        ("llama.rope.dimension_count", number(8)),
    ]);
    (said, found)
}

/// llama.cpp's own Q4_K_M of the widened model (`golden/gguf/quantise.py`).
fn q4_k_m(dir: &Path) -> Base {
    let small = std::fs::read(gguf("stories260K-Q4_K_M").with_extension("gguf.zst")).unwrap();
    let path = dir.join("stories260K-Q4_K_M.gguf");
    std::fs::write(&path, zstd::decode_all(small.as_slice()).unwrap()).unwrap();
    Base::open(&path, Precision::F32).unwrap()
}

#[test]
fn quantised_bases_read_held_out_text_nearly_as_well() {
    let (dir, texts) = stories();
    let plain = Base::open(dir.path(), Precision::F32).unwrap();
    let want = perplexity(&plain, &texts);
    assert!((2.0..8.0).contains(&want), "{want}");
    let int8 = Base::open(dir.path(), Precision::Int8).unwrap();
    assert_eq!(int8.fingerprint, plain.fingerprint, "the same base");
    let q8_0 = Base::open(&gguf("stories260K"), Precision::F32).unwrap();
    let (fields, tensors) = widened(dir.path());
    // A file must not change while a base is open over it: each has its own.
    let open = |kind: GgmlDType| {
        let to = tempfile::tempdir().unwrap();
        let path = write(to.path(), &fields, &tensors, |_| kind);
        let tokenizer = "tokenizer.json";
        std::fs::copy(dir.path().join(tokenizer), to.path().join(tokenizer)).unwrap();
        Base::open(&path, Precision::F32).unwrap()
    };
    let whole = perplexity(&open(GgmlDType::F32), &texts);
    assert!((whole / want - 1.0).abs() < 1e-4, "{whole} {want}");
    let to = tempfile::tempdir().unwrap();
    for (name, base, bound) in [
        ("int8", &int8, 0.01),
        ("Q8_0 of llama.cpp", &q8_0, 0.01),
        ("Q4_K_M of llama.cpp", &q4_k_m(to.path()), 0.06),
        ("Q8_0", &open(GgmlDType::Q8_0), 0.01),
        ("Q6_K", &open(GgmlDType::Q6K), 0.03),
        ("Q5_K", &open(GgmlDType::Q5K), 0.06),
    ] {
        let got = perplexity(base, &texts);
        let off = got / want - 1.0;
        println!("{name}: {got:.4}, f32 {want:.4}, {:+.2} %", 100.0 * off);
        assert!(off.abs() < bound && off != 0.0, "{name}");
    }
}
