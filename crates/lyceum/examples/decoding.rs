//! Measures the decoding speed of a base for each storage format of its matrices.
//!
//! ```text
//! cargo run --release --example decoding            # TinyLlama's shape, 1.1 billion values
//! cargo run --release --example decoding -- 4       # the same with 4 blocks
//! ```
//!
//! Writes a Llama of that shape with random values as GGUF files into a temporary folder (2.2 GB
//! for 22 blocks), opens each, and prints the seconds per token of greedy decoding after a prompt
//! of 32 tokens, and of the prompt itself.

#![allow(clippy::print_stdout, reason = "an example prints its table")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lyceum::backbone::{Base, Logits, Precision};
use lyceum::mix::{Pass, SeqLens};
use lyceum::{Error, Result};

const WIDTH: usize = 2048;
const INNER: usize = 5632;
const GROUPS: usize = 256;
const WORDS: usize = 32_000;
const PROMPT: usize = 32;
const NEW: usize = 16;

fn main() -> Result<()> {
    let blocks = std::env::args().nth(1).map(|n| n.parse::<u32>());
    let blocks = match blocks.unwrap_or(Ok(22)) {
        Ok(n @ 1..=22) => n,
        _ => return Err(Error::invalid("usage: decoding [BLOCKS, up to 22]")),
    };
    let dir = tempfile::tempdir().map_err(|e| Error::io(Path::new("a temporary folder"), e))?;
    println!(
        "{:<8} {:>9} {:>12} {:>12}",
        "kept as", "opened s", "prompt t/s", "decode t/s"
    );
    let plain = write(dir.path(), "bf16", blocks, |_| GgmlDType::BF16)?;
    time("bf16", &plain, Precision::Bf16)?;
    time("int8", &plain, Precision::Int8)?;
    time("f32", &plain, Precision::F32)?;
    std::fs::remove_file(&plain).map_err(|e| Error::io(&plain, e))?;
    let eight = write(dir.path(), "q8_0", blocks, |_| GgmlDType::Q8_0)?;
    time("Q8_0", &eight, Precision::F32)?;
    let four = write(dir.path(), "q4_k", blocks, |name| match name {
        "output" | "ffn_down" | "attn_v" => GgmlDType::Q6K,
        _ => GgmlDType::Q4K,
    })?;
    time("Q4_K/6_K", &four, Precision::F32)
}

/// Writes a GGUF file with a tokenizer beside it; all blocks have the same values.
fn write(dir: &Path, name: &str, blocks: u32, kind: impl Fn(&str) -> GgmlDType) -> Result<PathBuf> {
    let matrix = |role: &str, n_out: usize, n_in: usize| -> Result<QTensor> {
        let scale = (n_in as f64).powf(-0.5);
        let mut state = 7u32;
        let values: Vec<f32> = (0..n_out * n_in)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((f64::from(state) / f64::from(u32::MAX) - 0.5) * 3.0 * scale) as f32
            })
            .collect();
        let values = Tensor::from_vec(values, (n_out, n_in), &Device::Cpu)?;
        Ok(QTensor::quantize(&values, kind(role))?)
    };
    let ones = Tensor::ones(WIDTH, candle_core::DType::F32, &Device::Cpu)?;
    let norm = QTensor::quantize(&ones, GgmlDType::F32)?;
    let table = matrix("token_embd", WORDS, WIDTH)?;
    let head = matrix("output", WORDS, WIDTH)?;
    let own = [
        ("attn_q", matrix("attn_q", WIDTH, WIDTH)?),
        ("attn_k", matrix("attn_k", GROUPS, WIDTH)?),
        ("attn_v", matrix("attn_v", GROUPS, WIDTH)?),
        ("attn_output", matrix("attn_output", WIDTH, WIDTH)?),
        ("ffn_gate", matrix("ffn_gate", INNER, WIDTH)?),
        ("ffn_up", matrix("ffn_up", INNER, WIDTH)?),
        ("ffn_down", matrix("ffn_down", WIDTH, INNER)?),
    ];
    let mut all: Vec<(String, &QTensor)> = vec![
        ("token_embd.weight".into(), &table),
        ("output.weight".into(), &head),
        ("output_norm.weight".into(), &norm),
    ];
    for block in 0..blocks {
        for role in ["attn_norm", "ffn_norm"] {
            all.push((format!("blk.{block}.{role}.weight"), &norm));
        }
        for (role, tensor) in &own {
            all.push((format!("blk.{block}.{role}.weight"), tensor));
        }
    }
    let number = |n: usize| Value::U32(n as u32);
    let fields = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(blocks)),
        ("llama.context_length", number(2048)),
        ("llama.embedding_length", number(WIDTH)),
        ("llama.feed_forward_length", number(INNER)),
        ("llama.attention.head_count", number(32)),
        ("llama.attention.head_count_kv", number(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let fields: Vec<(&str, &Value)> = fields.iter().map(|(name, v)| (*name, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = all.iter().map(|(name, t)| (name.as_str(), *t)).collect();
    let path = dir.join(format!("{name}.gguf"));
    let file = std::fs::File::create(&path).map_err(|e| Error::io(&path, e))?;
    let mut file = std::io::BufWriter::new(file);
    gguf_file::write(&mut file, &fields, &tensors)?;
    let tokenizer = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel",
        "vocab": {"</s>": 0}, "unk_token": "</s>"}}"#;
    lyceum::file::write(&dir.join("tokenizer.json"), tokenizer.as_bytes())?;
    Ok(path)
}

fn time(name: &str, path: &Path, precision: Precision) -> Result<()> {
    let start = Instant::now();
    let base = Base::open(path, precision)?;
    let opened = start.elapsed().as_secs_f64();
    let mut cache = base.decoder.cache(1);
    let mut step = |tokens: &[u32]| -> Result<u32> {
        let seq_lens = SeqLens::after(&[tokens.len()], cache.lens())?;
        let pass = Pass::new(&seq_lens);
        let hidden = base.decoder.hidden(tokens, Some(&mut cache), &pass)?;
        let last = Logits::Rows(&[tokens.len() as u32 - 1]);
        let logits = base.decoder.logits(&hidden, last)?;
        Ok(logits.get(0)?.argmax(0)?.to_scalar()?)
    };
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| 1 + i * 997 % 31_000).collect();
    let start = Instant::now();
    let mut next = step(&prompt)?;
    let prompted = PROMPT as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for _ in 0..NEW {
        next = step(&[next])?;
    }
    let decoded = NEW as f64 / start.elapsed().as_secs_f64();
    println!("{name:<8} {opened:>9.1} {prompted:>12.1} {decoded:>12.2}");
    Ok(())
}
