//! Quantised bases: what blocks mean, training over them, and what they cost in perplexity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, Var};
use lyceum::backbone::{Base, Precision};
use lyceum::lora::Lora;
use lyceum::mix::{Bank, Mixing, Mixture};
use lyceum::route::Fixed;
use lyceum::{Name, Site};
use lyceum_kernels::quantised::Format;

use crate::families::{TOKENIZER, Tensors, apart, folder, llama2c, logits, tensors};

pub(crate) fn gguf(name: &str) -> PathBuf {
    folder("../gguf").join(format!("{name}.gguf"))
}

#[test]
fn blocks_mean_what_they_mean_to_ggml() {
    let formats = [
        (GgmlDType::Q4_0, Format::Q4_0),
        (GgmlDType::Q4_1, Format::Q4_1),
        (GgmlDType::Q5_0, Format::Q5_0),
        (GgmlDType::Q5_1, Format::Q5_1),
        (GgmlDType::Q8_0, Format::Q8_0),
        (GgmlDType::Q4K, Format::Q4_K),
        (GgmlDType::Q5K, Format::Q5_K),
        (GgmlDType::Q6K, Format::Q6_K),
    ];
    for (dtype, format) in formats {
        let values = noise(&[7, 512], 3);
        let blocks = QTensor::quantize(&values, dtype).unwrap();
        let want = blocks.dequantize(&Device::Cpu).unwrap();
        let mut got = vec![0.0; 7 * 512];
        format.decode(&blocks.data().unwrap(), &mut got);
        let got = Tensor::from_vec(got, (7, 512), &Device::Cpu).unwrap();
        assert!(apart(&got, &want) < 1e-6, "{format:?}");
        assert!(apart(&got, &values) > 1e-4, "{format:?} is another number");
    }
}

/// Repeatable values of about unit size.
pub(crate) fn noise(shape: &[usize], seed: u32) -> Tensor {
    let n = shape.iter().product::<usize>();
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    let values: Vec<f32> = (0..n)
        .map(|_| ((next() + next() + next()) * 2.0) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) const WIDTH: usize = 256;
const WORDS: usize = 40;

/// A llama of one block, wide enough for blocks of 256: the tensors ggml's file holds.
pub(crate) fn wide() -> BTreeMap<&'static str, Tensor> {
    let scaled = |shape: &[usize], seed| (noise(shape, seed) * (WIDTH as f64).powf(-0.5)).unwrap();
    let one = |seed| ((noise(&[WIDTH], seed) * 0.1).unwrap() + 1.0).unwrap();
    BTreeMap::from([
        ("token_embd.weight", noise(&[WORDS, WIDTH], 1)),
        ("output_norm.weight", one(2)),
        ("output.weight", scaled(&[WORDS, WIDTH], 3)),
        ("blk.0.attn_norm.weight", one(4)),
        ("blk.0.ffn_norm.weight", one(5)),
        ("blk.0.attn_q.weight", scaled(&[WIDTH, WIDTH], 6)),
        ("blk.0.attn_k.weight", scaled(&[WIDTH / 2, WIDTH], 7)),
        ("blk.0.attn_v.weight", scaled(&[WIDTH / 2, WIDTH], 8)),
        ("blk.0.attn_output.weight", scaled(&[WIDTH, WIDTH], 9)),
        ("blk.0.ffn_gate.weight", scaled(&[2 * WIDTH, WIDTH], 10)),
        ("blk.0.ffn_up.weight", scaled(&[2 * WIDTH, WIDTH], 11)),
        ("blk.0.ffn_down.weight", scaled(&[WIDTH, 2 * WIDTH], 12)),
    ])
}

/// The fields of that llama.
pub(crate) fn fields() -> BTreeMap<&'static str, Value> {
    let number = |n: u32| Value::U32(n);
    BTreeMap::from([
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(WIDTH as u32)),
        ("llama.feed_forward_length", number(2 * WIDTH as u32)),
        ("llama.attention.head_count", number(8)),
        ("llama.attention.head_count_kv", number(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", number(32)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
    ])
}

/// Writes a GGUF file with a tokenizer beside it, matrices as `kind` says.
pub(crate) fn write(
    dir: &Path,
    fields: &BTreeMap<&'static str, Value>,
    tensors: &BTreeMap<&'static str, Tensor>,
    kind: impl Fn(&str) -> GgmlDType,
) -> PathBuf {
    let quantised: Vec<(&str, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = if tensor.rank() == 1 {
                GgmlDType::F32
            } else {
                kind(name)
            };
            (*name, QTensor::quantize(tensor, dtype).unwrap())
        })
        .collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(n, t)| (*n, t)).collect();
    let fields: Vec<(&str, &Value)> = fields.iter().map(|(n, v)| (*n, v)).collect();
    std::fs::write(dir.join("tokenizer.json"), TOKENIZER.replace("47", "39")).unwrap();
    let path = dir.join("wide.gguf");
    let mut file = std::fs::File::create(&path).unwrap();
    gguf_file::write(&mut file, &fields, &tensors).unwrap();
    path
}

/// As llama.cpp mixes them for `Q4_K_M`.
fn mixed(name: &str) -> GgmlDType {
    match name {
        "output.weight" | "blk.0.ffn_down.weight" => GgmlDType::Q6K,
        "blk.0.attn_v.weight" => GgmlDType::Q5K,
        "token_embd.weight" => GgmlDType::Q8_0,
        _ => GgmlDType::Q4K,
    }
}

/// LoRAs on every site, as variables.
fn adapter(base: &Base) -> (BTreeMap<Site, (Var, Var)>, Mixture) {
    let sites = base.decoder.config().sites().into_iter().enumerate();
    let vars: BTreeMap<Site, (Var, Var)> = sites
        .map(|(i, (site, (d_out, d_in)))| {
            let var = |shape: &[usize], seed: usize| {
                let values = (noise(shape, seed as u32 + 50) * 0.1).unwrap();
                Var::from_tensor(&values).unwrap()
            };
            (site, (var(&[2, d_in], 2 * i), var(&[d_out, 2], 2 * i + 1)))
        })
        .collect();
    let lora = |(site, (a, b)): (&Site, &(Var, Var))| {
        let (a, b) = (a.as_tensor().clone(), b.as_tensor().clone());
        (site.clone(), Lora { a, b, scale: 1.5 })
    };
    let loras: BTreeMap<Site, Lora> = vars.iter().map(lora).collect();
    let mixture = Mixture {
        bank: Arc::new(Bank::new([(Name::new("one").unwrap(), &loras)]).unwrap()),
        router: Arc::new(Fixed::new(&[1.0])),
        mixing: Mixing::Outputs,
    };
    (vars, mixture)
}

/// Logits and every gradient of a LoRA on every site.
fn trained(base: &Base, tokens: &[Vec<u32>]) -> (Tensor, BTreeMap<String, Tensor>) {
    let (vars, mixture) = adapter(base);
    let logits = logits(base, tokens, Some(&mixture));
    let ids: Arc<[u32]> = tokens.concat().into();
    let loss = lyceum::ops::cross_entropy(&logits, &ids)
        .unwrap()
        .mean_all()
        .unwrap();
    let found = loss.backward().unwrap();
    let mut gradients = BTreeMap::new();
    for (site, (a, b)) in &vars {
        for (name, var) in [("A", a), ("B", b)] {
            let gradient = found.get(var.as_tensor()).unwrap().clone();
            gradients.insert(format!("{site} {name}"), gradient);
        }
    }
    (logits, gradients)
}

#[test]
fn experts_train_over_quantised_matrices_as_over_the_same_values_in_f32() {
    // A short sequence and one of more rows than a step of decoding has.
    let tokens = [vec![3, 1, 4, 1, 5], (0..30).map(|i| i * 7 % 39).collect()];
    let dir = tempfile::tempdir().unwrap();
    let quantised = Base::open(
        &write(dir.path(), &fields(), &wide(), mixed),
        Precision::F32,
    );
    let quantised = quantised.unwrap();
    let rounded: BTreeMap<&'static str, Tensor> = wide()
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = if tensor.rank() == 1 {
                GgmlDType::F32
            } else {
                mixed(name)
            };
            let blocks = QTensor::quantize(&tensor, dtype).unwrap();
            (name, blocks.dequantize(&Device::Cpu).unwrap())
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let plain = write(dir.path(), &fields(), &rounded, |_| GgmlDType::F32);
    let plain = Base::open(&plain, Precision::F32).unwrap();
    // The same model, so experts fit both.
    assert_eq!(quantised.fingerprint, plain.fingerprint);
    let (got, want) = (trained(&quantised, &tokens), trained(&plain, &tokens));
    assert!(apart(&got.0, &want.0) < 1e-4);
    let size = |t: &Tensor| apart(t, &t.zeros_like().unwrap());
    for (name, want) in &want.1 {
        let off = apart(&got.1[name], want) / size(want);
        assert!(off < 1e-4, "{name}: {off}");
    }
    // One by one, and a token at a time with a cache, it is the same.
    let alone = logits(&quantised, &tokens[..1], None);
    let both = logits(&quantised, &tokens, None).narrow(0, 0, 5).unwrap();
    assert!(apart(&alone, &both) < 1e-5);
    let model = lyceum::model::Model::new(Arc::new(quantised), None);
    let how = lyceum::model::Decoding {
        max_new: 8,
        live: 32,
    };
    let told = |base: lyceum::model::Model| base.generate(&tokens, &[], &how, |_, _| {}).unwrap();
    let want = told(lyceum::model::Model::new(Arc::new(plain), None));
    assert_eq!(told(model), want);
}

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

#[test]
fn quantised_bases_read_held_out_text_nearly_as_well() {
    let (dir, texts) = stories();
    let plain = Base::open(dir.path(), Precision::F32).unwrap();
    let want = perplexity(&plain, &texts);
    assert!((2.0..8.0).contains(&want), "{want}");
    let int8 = Base::open(dir.path(), Precision::Int8).unwrap();
    assert_eq!(int8.fingerprint, plain.fingerprint, "the same base");
    let mut found = vec![
        ("int8", perplexity(&int8, &texts), 0.01),
        (
            "Q8_0 of llama.cpp",
            perplexity(
                &Base::open(&gguf("stories260K"), Precision::F32).unwrap(),
                &texts,
            ),
            0.01,
        ),
    ];
    let (fields, tensors) = widened(dir.path());
    // A file must not change while a base is open over it: each has its own.
    let open = |kind: &dyn Fn(&str) -> GgmlDType| {
        let to = tempfile::tempdir().unwrap();
        let path = write(to.path(), &fields, &tensors, kind);
        std::fs::copy(
            dir.path().join("tokenizer.json"),
            to.path().join("tokenizer.json"),
        )
        .unwrap();
        Base::open(&path, Precision::F32).unwrap()
    };
    let whole = perplexity(&open(&|_| GgmlDType::F32), &texts);
    assert!((whole / want - 1.0).abs() < 1e-4, "{whole} {want}");
    // As llama.cpp mixes them for Q4_K_M: the embedding and half of these in Q6_K.
    let mixed = |name: &str| {
        let half = name.contains(".0.") || name.contains(".3.") || name.contains(".4.");
        match name.contains("token_embd") || half && (name.contains("_v") || name.contains("down"))
        {
            true => GgmlDType::Q6K,
            false => GgmlDType::Q4K,
        }
    };
    for (name, base, bound) in [
        ("Q8_0", open(&|_| GgmlDType::Q8_0), 0.01),
        ("Q6_K", open(&|_| GgmlDType::Q6K), 0.03),
        ("Q5_K", open(&|_| GgmlDType::Q5K), 0.06),
        ("Q4_K_M", open(&mixed), 0.06),
    ] {
        found.push((name, perplexity(&base, &texts), bound));
    }
    for (name, got, bound) in &found {
        println!(
            "{name}: {got:.4}, f32 {want:.4}, {:+.2} %",
            100.0 * (got / want - 1.0)
        );
        assert!((got / want - 1.0).abs() < *bound && *got != want, "{name}");
    }
}

#[test]
fn values_that_eight_bits_cannot_hold_are_refused() {
    let config = std::fs::read(folder("llama").join("config.json")).unwrap();
    let mut all: Tensors = tensors(&folder("llama").join("model.safetensors"));
    let name = "model.layers.0.mlp.up_proj.weight";
    let large = (all[name].to_dtype(DType::F32).unwrap() * 1e9).unwrap();
    all.insert(name.into(), large);
    let bytes = safetensors::serialize(all, None).unwrap();
    let open = |how| Base::from_bytes("x", &config, &bytes, TOKENIZER.as_bytes(), how);
    assert!(open(Precision::F32).is_ok());
    let said = open(Precision::Int8).unwrap_err().to_string();
    assert!(said.contains(name), "{said}");
}
