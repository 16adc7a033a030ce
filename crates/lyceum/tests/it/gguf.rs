//! GGUF files: those that llama.cpp's converter writes (`golden/gguf`), and those that are refused.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use lyceum::backbone::{Base, Precision};
use serde_json::json;

use crate::families::{apart, base_of, folder, logits, sequences, tensors};
use crate::perplexity::stories;
use crate::quantised::{WIDTH, fields, gguf, noise, wide, write};

#[test]
fn files_of_llama_cpps_converter_compute_what_the_folders_do() {
    // What ggml's files cannot say, and whether all tensors are kept as the folder has them.
    let all = [
        ("llama", json!({}), true),
        (
            "mistral",
            json!({ "sliding_window": null, "layer_types": null }),
            false,
        ),
        (
            "qwen2",
            json!({ "use_sliding_window": false, "layer_types": null }),
            false,
        ),
        ("qwen3", json!({}), false),
        ("gemma", json!({}), false),
        ("gemma2", json!({ "query_pre_attn_scalar": 6 }), false),
        ("phi", json!({}), false),
        ("phi3", json!({}), false),
        ("gpt2", json!({}), false),
        ("gpt_neox", json!({}), false),
    ];
    for (family, changes, alike) in all {
        let read = std::fs::read(folder(family).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&read).unwrap();
        let fields = config.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        let want = base_of(family, config.to_string().as_bytes());
        let got = Base::open(&gguf(family), Precision::F32).unwrap();
        let golden = tensors(&folder(family).join("golden.safetensors"));
        let both = sequences(&golden);
        let off = apart(&logits(&got, &both, None), &logits(&want, &both, None));
        assert!(off < 1e-5, "{family}: {off}");
        // The same adapters fit.
        assert_eq!(
            got.decoder.config().sites(),
            want.decoder.config().sites(),
            "{family}"
        );
        if alike {
            assert_eq!(got.fingerprint, want.fingerprint, "{family}");
        }
        assert_eq!(got.family_fingerprint, want.family_fingerprint, "{family}");
        assert_eq!(
            got.tokenizer.encode("abaz").unwrap(),
            [27, 0, 25],
            "{family}"
        );
        assert_eq!(got.stops.iter().copied().collect::<Vec<_>>(), [47]);
    }
}

/// An error with its causes.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|e| format!("{e}: ")).collect()
}

/// Something done to the fields and tensors of a file.
type Change = dyn Fn(&mut BTreeMap<&'static str, Value>, &mut BTreeMap<&'static str, Tensor>);

#[test]
fn what_a_gguf_file_says_beyond_what_is_known_is_refused_by_name() {
    let refusal = |change: &Change| {
        let (mut fields, mut tensors) = (fields(), wide());
        change(&mut fields, &mut tensors);
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &fields, &tensors, |_| GgmlDType::F32);
        Base::open(&path, Precision::F32).map_or_else(|e| whole(&e), |_| String::new())
    };
    let put = |name: &'static str, value: Value| {
        refusal(&move |fields, _| {
            fields.insert(name, value.clone());
        })
    };
    let cases = [
        (
            put("general.architecture", Value::String("mamba".into())),
            "`mamba`",
        ),
        (
            put("general.type", Value::String("adapter".into())),
            "`adapter`",
        ),
        (
            put("llama.rope.scaling.attn_factor", Value::F32(2.0)),
            "attn_factor",
        ),
        (
            put("llama.expert_count", Value::U32(8)),
            "`llama.expert_count`",
        ),
        (
            put("llama.logit_scale", Value::F32(0.5)),
            "`llama.logit_scale`",
        ),
        (
            put("llama.attention.head_count_kv", Value::U32(3)),
            "3 key-value heads",
        ),
        (
            put("llama.rope.scaling.type", Value::String("spiral".into())),
            "`spiral`",
        ),
        (put("llama.embedding_length", Value::U32(0)), "hidden_size"),
        (
            put("llama.embedding_length", Value::U32(u32::MAX)),
            "hidden_size",
        ),
        (put("llama.block_count", Value::U32(2)), "layers.1"),
        (put("split.count", Value::U16(3)), "merge"),
        (
            put("llama.block_count", Value::String("one".into())),
            "`llama.block_count`",
        ),
        (
            refusal(&|fields, _| {
                fields.remove("llama.block_count");
            }),
            "`llama.block_count`",
        ),
        (
            refusal(&|_, tensors| {
                tensors.insert("blk.0.attn_q.bias", noise(&[WIDTH], 1));
            }),
            "k_proj.bias",
        ),
        (
            refusal(&|_, tensors| {
                tensors.insert("blk.0.ffn_gate_inp.weight", noise(&[8, WIDTH], 1));
            }),
            "ffn_gate_inp",
        ),
        (
            refusal(&|_, tensors| {
                tensors.remove("blk.0.ffn_up.weight");
            }),
            "up_proj",
        ),
    ];
    for (said, why) in cases {
        assert!(said.contains(why), "{said} should name {why}");
    }
    // A scale that is not finite, and kinds that are not read.
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &fields(), &wide(), |_| GgmlDType::Q8_0);
    let mut bytes = std::fs::read(&path).unwrap();
    let n = bytes.len();
    bytes[n - 100..].fill(0x7f);
    std::fs::write(&path, bytes).unwrap();
    let said = Base::open(&path, Precision::F32).map_or_else(|e| whole(&e), |_| String::new());
    assert!(said.contains("finite"), "{said}");
    let path = write(dir.path(), &fields(), &wide(), |_| GgmlDType::Q2K);
    let said = Base::open(&path, Precision::F32).map_or_else(|e| whole(&e), |_| String::new());
    assert!(said.contains("Q2_K"), "{said}");
    std::fs::write(&path, b"no such thing").unwrap();
    let said = Base::open(&path, Precision::F32).map_or_else(|e| whole(&e), |_| String::new());
    assert!(said.contains("not a GGUF file"), "{said}");
}

#[test]
fn stretched_contexts_are_read_as_llama_cpp_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let base = |more: &[(&'static str, Value)]| {
        let mut fields = fields();
        fields.extend(more.iter().cloned());
        let path = write(dir.path(), &fields, &wide(), |_| GgmlDType::F32);
        Base::open(&path, Precision::F32).unwrap().fingerprint
    };
    let kind = |kind: &str| ("llama.rope.scaling.type", Value::String(kind.into()));
    let factor = |x: f32| ("llama.rope.scaling.factor", Value::F32(x));
    let older = |x: f32| ("llama.rope.scale_linear", Value::F32(x));
    let sharper = |x: f32| ("llama.rope.scaling.attn_factor", Value::F32(x));
    let (plain, linear) = (base(&[]), base(&[kind("linear"), factor(4.0)]));
    assert_ne!(plain, linear);
    // A type that is not said is linear; `none` is none, whatever the factor; 0 is no factor.
    assert_eq!(base(&[factor(4.0)]), linear);
    assert_eq!(base(&[older(4.0)]), linear);
    assert_eq!(base(&[factor(4.0), older(2.0)]), linear);
    for none in [
        &[kind("none"), factor(4.0)][..],
        &[factor(1.0)],
        &[factor(0.0)],
        &[kind("linear")],
        &[sharper(1.0)],
    ] {
        assert_eq!(base(none), plain);
    }
    // What is said of attention under yarn multiplies what follows from the factor.
    let yarn = [kind("yarn"), factor(4.0)];
    let with = |x: f32| base(&[yarn[0].clone(), yarn[1].clone(), sharper(x)]);
    assert_ne!(base(&yarn), linear);
    assert_eq!(with(1.0), base(&yarn));
    assert_ne!(with(1.5), base(&yarn));
}

#[test]
fn damaged_gguf_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &fields(), &wide(), |_| GgmlDType::Q4_0);
    let whole = std::fs::read(&path).unwrap();
    // Every byte of the header in turn, and files that end early.
    let at = whole
        .windows(18)
        .position(|w| w == b"output_norm.weight")
        .unwrap();
    for i in (0..at + 40).step_by(5) {
        let mut bytes = whole.clone();
        bytes[i] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        let _ = Base::open(&path, Precision::F32);
    }
    for end in [0, 3, 24, 100, at, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert!(Base::open(&path, Precision::F32).is_err(), "{end}");
    }
}

#[test]
fn sentencepiece_vocabularies_cut_texts_as_their_tokenizer_json_does() {
    let (dir, _) = stories();
    let open = lyceum::data::Tokenizer::open;
    let want = open(dir.path()).unwrap();
    let inside = Base::open(&gguf("stories260K"), Precision::F32).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    std::fs::copy(
        folder("../gguf/tokenizer.model"),
        dir.path().join("tokenizer.model"),
    )
    .unwrap();
    let model = open(dir.path()).unwrap();
    for tokenizer in [&model, &inside.tokenizer] {
        assert_eq!((tokenizer.start(), tokenizer.eos()), (&[1][..], 2));
        for text in [
            "Once upon a time, there was a little girl named Lily.",
            "She said: \"caf\u{e9} \u{1f600}\"\n\n  two  spaces ",
            "",
            "x",
        ] {
            let ids = want.encode(text).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), want.decode(&ids).unwrap());
        }
    }
    // Damage is an error, never a panic.
    let whole = std::fs::read(folder("../gguf/tokenizer.model")).unwrap();
    let path = dir.path().join("tokenizer.model");
    for at in (0..whole.len()).step_by(101) {
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(open(dir.path()).is_err(), "{at}");
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        let _ = open(dir.path());
    }
}

#[test]
fn one_network_in_other_bytes_keeps_its_family_fingerprint() {
    // The folder of the llama that `wide` makes: its rows of q and k in the checkpoint's order.
    let config = json!({
        "model_type": "llama", "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 1,
        "intermediate_size": 2 * WIDTH, "num_attention_heads": 8, "num_key_value_heads": 4,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
    });
    let parse = |config: &serde_json::Value| {
        lyceum::backbone::Config::parse(config.to_string().as_bytes(), "config.json").unwrap()
    };
    let folder = parse(&config);
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::collections::BTreeSet::new();
    for kind in [GgmlDType::F32, GgmlDType::Q8_0, GgmlDType::Q4_0] {
        let path = write(dir.path(), &fields(), &wide(), |_| kind);
        let base = Base::open(&path, Precision::F32).unwrap();
        assert_eq!(
            base.family_fingerprint,
            folder.family_fingerprint().unwrap()
        );
        assert_eq!(base.host().family_fingerprint, base.family_fingerprint);
        let summary = lyceum::backbone::BaseInfo::open(&path).unwrap();
        assert_eq!(summary.family_fingerprint, base.family_fingerprint);
        assert!(bytes.insert(base.fingerprint), "other bytes");
    }
    // Llama 3's stretched context: words in a config.json, a tensor of divisors in a GGUF file.
    let mut stretched = config.clone();
    stretched["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256 });
    let divisors = (0..16).map(|i| {
        let turns = 256.0 / (2.0 * std::f64::consts::PI * 10_000f64.powf(f64::from(i) / 16.0));
        let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / 8.0 + kept)) as f32
    });
    let mut tensors = wide();
    let divisors = Tensor::from_iter(divisors, &candle_core::Device::Cpu).unwrap();
    tensors.insert("rope_freqs.weight", divisors);
    let path = write(dir.path(), &fields(), &tensors, |_| GgmlDType::Q8_0);
    let base = Base::open(&path, Precision::F32).unwrap();
    assert_eq!(
        base.family_fingerprint,
        parse(&stretched).family_fingerprint().unwrap()
    );
    // Whatever changes what is computed makes another family.
    let mut all = std::collections::BTreeSet::from([
        folder.family_fingerprint().unwrap(),
        base.family_fingerprint,
    ]);
    for change in [
        json!({ "vocab_size": 41 }),
        json!({ "hidden_size": 272 }),
        json!({ "num_hidden_layers": 2 }),
        json!({ "num_key_value_heads": 2 }),
        json!({ "head_dim": 16 }),
        json!({ "intermediate_size": 511 }),
        json!({ "hidden_act": "gelu" }),
        json!({ "rms_norm_eps": 1e-6 }),
        json!({ "rope_theta": 500_000.0 }),
        json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
        json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }),
        json!({ "attention_bias": true }),
        json!({ "mlp_bias": true }),
        json!({ "model_type": "mistral", "sliding_window": 16 }),
        json!({ "model_type": "phi3" }),
        json!({ "model_type": "gemma" }),
        json!({ "model_type": "gemma2" }),
        json!({ "model_type": "qwen3" }),
    ] {
        let mut other = config.clone();
        let fields = other.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        assert!(
            all.insert(parse(&other).family_fingerprint().unwrap()),
            "{change}"
        );
    }
}
