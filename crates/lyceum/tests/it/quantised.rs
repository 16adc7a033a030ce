//! Quantised bases: what blocks mean, and training over them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, Var};
use lyceum::backbone::{Base, Precision};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::lora::Lora;
use lyceum::mix::{Bank, Mixing, Mixture};
use lyceum::route::Fixed;
use lyceum::{Name, Site};
use lyceum_kernels::quantised::Format;

use crate::families::{TOKENIZER, Tensors, apart, folder, logits, tensors};

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
    let model = lyceum::model::Model::new(Arc::new(quantised));
    let how = GenerationConfig::default().max_new_tokens(8).batch_size(32);
    let told =
        |base: lyceum::model::Model| base.generate_tokens(&tokens, &[], &how, ignore).unwrap();
    let want = told(lyceum::model::Model::new(Arc::new(plain)));
    assert_eq!(told(model), want);
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
