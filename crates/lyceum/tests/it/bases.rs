//! Opening bases: what is refused, how weights may lie on disk, what the small files say.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use lyceum::backbone::{Base, Message, Precision, families};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::mix::{Pass, SeqLens};
use serde_json::json;

use crate::families::{
    TOKENIZER, Tensors, apart, base, base_of, folder, logits, sequences, tensors,
};

/// A golden's configuration with some fields changed.
pub(crate) fn changed(family: &str, changes: &serde_json::Value) -> Vec<u8> {
    let read = std::fs::read(folder(family).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&read).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

fn refusal(family: &str, changes: &serde_json::Value) -> String {
    let config = changed(family, changes);
    lyceum::backbone::Config::parse(&config, "config.json")
        .unwrap_err()
        .to_string()
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases = [
        ("llama", json!({ "model_type": "mamba" }), "`mamba`"),
        ("llama", json!({ "logit_scale": 0.5 }), "`logit_scale`"),
        ("llama", json!({ "hidden_act": "mish" }), "`mish`"),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "spiral" } }),
            "`spiral`",
        ),
        (
            "llama",
            json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0, "odd": 1 } }),
            "`odd`",
        ),
        (
            "llama",
            json!({ "num_key_value_heads": 3 }),
            "3 key-value heads",
        ),
        ("llama", json!({ "hidden_size": 0 }), "`hidden_size`"),
        ("llama", json!({ "num_hidden_layers": 1_000_000 }), "blocks"),
        (
            "llama",
            json!({ "is_encoder_decoder": true }),
            "`is_encoder_decoder`",
        ),
        (
            "qwen2",
            json!({ "layer_types": ["full_attention", "linear_attention"] }),
            "`linear_attention`",
        ),
        (
            "starcoder2",
            json!({ "norm_type": "rms_norm" }),
            "`norm_type`",
        ),
        (
            "gpt2",
            json!({ "add_cross_attention": true }),
            "`add_cross_attention`",
        ),
    ];
    for (family, changes, why) in cases {
        let said = refusal(family, &changes);
        assert!(said.contains(why), "{said}");
    }
    // What changes nothing is no reason to refuse, and neither is a field that is off.
    for changes in [
        json!({ "torch_dtype": "float16", "temperature": 0.6 }),
        json!({ "odd": null }),
    ] {
        lyceum::backbone::Config::parse(&changed("llama", &changes), "config.json").unwrap();
    }
}

/// Writes tensors as one file, in one type of numbers.
pub(crate) fn write(path: &Path, tensors: &Tensors, dtype: DType) {
    let cast = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap());
    let all: BTreeMap<String, Tensor> = tensors.iter().map(cast).collect();
    std::fs::write(path, safetensors::serialize(all, None).unwrap()).unwrap();
}

/// A folder of the family's configuration with weights that `lay` puts there.
fn laid(family: &str, lay: impl Fn(&Path, Tensors)) -> lyceum::Result<Base> {
    laid_as(family, &json!({}), lay)
}

/// The same with some fields of the configuration changed.
pub(crate) fn laid_as(
    family: &str,
    changes: &serde_json::Value,
    lay: impl Fn(&Path, Tensors),
) -> lyceum::Result<Base> {
    let dir = tempfile::tempdir().unwrap();
    let config = changed(family, changes);
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    lay(
        dir.path(),
        tensors(&folder(family).join("model.safetensors")),
    );
    Base::open(dir.path(), Precision::F32)
}

#[test]
fn shards_dtypes_and_missing_prefixes_make_no_difference() {
    let one = "model.safetensors";
    let want = base("gpt2").fingerprint;
    for dtype in [DType::F32, DType::BF16] {
        let base = laid("gpt2", |dir, all| write(&dir.join(one), &all, dtype)).unwrap();
        assert_eq!(base.fingerprint, want);
    }
    let bare = laid("gpt2", |dir, all| {
        let strip = |(name, t): (String, Tensor)| (name.replacen("transformer.", "", 1), t);
        write(
            &dir.join(one),
            &all.into_iter().map(strip).collect(),
            DType::F32,
        );
    });
    assert_eq!(bare.unwrap().fingerprint, want);
    let sharded = laid("gpt2", |dir, all| {
        let (mut parts, mut map) = ([Tensors::new(), Tensors::new()], serde_json::Map::new());
        for (i, (name, tensor)) in all.into_iter().enumerate() {
            map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
            parts[i % 2].insert(name, tensor);
        }
        for (i, part) in parts.iter().enumerate() {
            write(
                &dir.join(format!("part-{i}.safetensors")),
                part,
                DType::BF16,
            );
        }
        let index = json!({ "weight_map": map }).to_string();
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    });
    assert_eq!(sharded.unwrap().fingerprint, want);
    // f16 cannot hold every bf16: near, not equal.
    let half = laid("llama", |dir, all| write(&dir.join(one), &all, DType::F16)).unwrap();
    let golden = tensors(&folder("llama").join("golden.safetensors"));
    let off = apart(&logits(&half, &sequences(&golden), None), &golden["logits"]);
    assert!(off < 2e-2, "{off}");
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let one = "model.safetensors";
    let path = "model.layers.1.self_attn.k_proj";
    let missing = laid("llama", |dir, mut all| {
        all.remove(&format!("{path}.weight"));
        write(&dir.join(one), &all, DType::F32);
    });
    assert!(missing.unwrap_err().to_string().contains(path));
    // A bias that the configuration does not speak of would change the result.
    let extra = laid("llama", |dir, mut all| {
        let bias = Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap();
        all.insert(format!("{path}.bias"), bias);
        write(&dir.join(one), &all, DType::F32);
    });
    assert!(
        extra
            .unwrap_err()
            .to_string()
            .contains(&format!("{path}.bias"))
    );
    let shape = laid("llama", |dir, mut all| {
        let name = format!("{path}.weight");
        let turned = all[&name].t().unwrap().contiguous().unwrap();
        all.insert(name, turned);
        write(&dir.join(one), &all, DType::F32);
    });
    assert!(shape.unwrap_err().to_string().contains(path));
    let infinite = laid("llama", |dir, mut all| {
        let name = "model.norm.weight".to_owned();
        let bad = (&all[&name].to_dtype(DType::F32).unwrap() * f64::INFINITY).unwrap();
        all.insert(name, bad);
        write(&dir.join(one), &all, DType::F32);
    });
    assert!(
        infinite
            .unwrap_err()
            .to_string()
            .contains("model.norm.weight")
    );
    let pickle = laid("llama", |dir, _| {
        std::fs::write(dir.join("pytorch_model.bin"), b"").unwrap();
    });
    assert!(pickle.is_err());
    let cut = laid("llama", |dir, all| {
        write(&dir.join(one), &all, DType::F32);
        let bytes = std::fs::read(dir.join(one)).unwrap();
        std::fs::write(dir.join(one), &bytes[..bytes.len() - 7]).unwrap();
    });
    assert!(cut.is_err());
    let escapes = laid("llama", |dir, _| {
        let index = json!({ "weight_map": { "model.norm.weight": "../other.safetensors" } });
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    });
    assert!(escapes.unwrap_err().to_string().contains("outside"));
}

#[test]
fn fingerprints_stay_what_they_are() {
    // Experts remember them: a change here makes every library out there stale. GPT-Neo's covers
    // its configuration in the form it had when it was the only family.
    let want: BTreeMap<String, String> =
        serde_json::from_slice(&std::fs::read(folder("fingerprints.json")).unwrap()).unwrap();
    let got: BTreeMap<String, String> = families()
        .map(|family| (family.into(), base(family).fingerprint))
        .collect();
    assert_eq!(got, want);
}

#[test]
fn family_fingerprints_stay_what_they_are() {
    // Cards remember them beside the fingerprints of the bytes.
    let read = std::fs::read(folder("family_fingerprints.json")).unwrap();
    let want: BTreeMap<String, String> = serde_json::from_slice(&read).unwrap();
    let got: BTreeMap<String, String> = families()
        .map(|family| (family.into(), base(family).family_fingerprint))
        .collect();
    assert_eq!(got, want);
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\n    {%- if m['role'] == 'system' %}\
    <|sys|>{{ m['content'].strip() }}\n    {%- elif m.role == 'user' %}<|user|>\
    {{ m.content | trim }}{% else %}{{ raise_exception('no ' + m.role) }}{% endif %}\
    {% endfor %}\n{% if add_generation_prompt %}<|bot|>{% endif %}";

#[test]
fn stop_tokens_and_chat_templates_are_read() {
    let message = |role: &str, content: &str| Message {
        role: role.into(),
        content: content.into(),
    };
    let base = laid("llama", |dir, all| {
        write(&dir.join("model.safetensors"), &all, DType::F32);
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(dir.join(name), value.to_string()).unwrap();
        };
        write(
            "generation_config.json",
            json!({ "eos_token_id": [5, 6], "top_p": 0.9 }),
        );
        write(
            "tokenizer_config.json",
            json!({ "bos_token": { "content": "<s>" }, "eos_token": "<|endoftext|>",
                    "chat_template": TEMPLATE }),
        );
    })
    .unwrap();
    assert_eq!(base.stops.iter().copied().collect::<Vec<_>>(), [5, 6, 47]);
    let said = base
        .chat
        .prompt(&[message("system", " be brief "), message("user", "hi ")])
        .unwrap();
    assert_eq!(said, "<s><|sys|>be brief<|user|>hi<|bot|>");
    let refused = base
        .chat
        .prompt(&[message("tool", "x")])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no tool"), "{refused}");
    // Generation ends at any of them.
    let golden = tensors(&folder("llama").join("golden.safetensors"));
    let [long, _] = sequences(&golden);
    let greedy: Vec<i64> = golden["greedy"].to_vec1().unwrap();
    let model = lyceum::model::Model::new(Arc::new(base));
    let how = GenerationConfig::default().max_new_tokens(12).batch_size(1);
    let told = model
        .generate_tokens(&[long[..5].to_vec()], &[], &how, ignore)
        .unwrap();
    let end = greedy
        .iter()
        .position(|id| [5, 6, 47].contains(id))
        .unwrap_or(12);
    let want: Vec<u32> = greedy[..end].iter().map(|id| *id as u32).collect();
    assert_eq!(told[0], want);
}

#[test]
fn sequences_end_where_the_positions_do() {
    // Stretched contexts hold more than they were trained on; plain ones do not.
    for (changes, longest) in [
        (json!({ "max_position_embeddings": 20 }), 20),
        (
            json!({ "max_position_embeddings": 20,
                    "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            40,
        ),
        (
            json!({ "max_position_embeddings": 20, "rope_scaling": { "rope_type": "yarn",
                    "factor": 4.0, "original_max_position_embeddings": 20 } }),
            80,
        ),
    ] {
        let base = base_of("llama", &changed("llama", &changes));
        assert_eq!(base.decoder.config().max_position_embeddings, longest);
        let seq_lens = SeqLens::new(&[longest + 1]);
        let tokens = vec![3; longest + 1];
        let result = base.decoder.hidden(&tokens, None, &Pass::new(&seq_lens));
        assert!(result.unwrap_err().to_string().contains("positions"));
    }
}

#[test]
fn sequences_continue_what_is_in_the_cache() {
    let base = base_of("llama", &changed("llama", &json!({})));
    let hidden = |past: &[usize], cache: Option<&mut lyceum::backbone::Cache>| {
        let seq_lens = SeqLens::after(&[2, 1], past).unwrap();
        let result = base
            .decoder
            .hidden(&[3, 4, 5], cache, &Pass::new(&seq_lens));
        result.map_err(|error| error.to_string())
    };
    let (mut cache, mut single) = (base.decoder.cache(2), base.decoder.cache(1));
    let wrong = [
        hidden(&[1, 0], Some(&mut cache)),
        hidden(&[0, 2], None),
        hidden(&[0, 0], Some(&mut single)),
    ];
    for result in wrong {
        let error = result.unwrap_err();
        assert!(error.contains("in the cache"), "{error}");
    }
    hidden(&[0, 0], Some(&mut cache)).unwrap();
    assert!(hidden(&[0, 0], Some(&mut cache)).is_err());
    hidden(&[2, 1], Some(&mut cache)).unwrap();
}
