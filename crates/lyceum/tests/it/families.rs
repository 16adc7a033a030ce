//! Every family computes what the reference computes: `golden/families`, made by its `make.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lyceum::backbone::{Base, Cache, Logits, Message, Precision, families};
use lyceum::lora::Lora;
use lyceum::mix::{Bank, Mixing, Mixture, Pass, Segments};
use lyceum::route::Fixed;
use lyceum::{Name, Site};
use serde_json::json;

/// A tokenizer of one token, which no golden text holds.
const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel",
    "vocab": {"<|endoftext|>": 47}, "unk_token": "<|endoftext|>"}}"#;

type Tensors = BTreeMap<String, Tensor>;

fn folder(family: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families");
    root.join(family)
}

fn tensors(path: &Path) -> Tensors {
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    all.into_iter().collect()
}

fn base_of(family: &str, config: &[u8]) -> Base {
    let weights = std::fs::read(folder(family).join("model.safetensors")).unwrap();
    let tokenizer = TOKENIZER.as_bytes();
    Base::from_bytes(family, config, &weights, tokenizer, Precision::F32).unwrap()
}

fn base(family: &str) -> Base {
    base_of(
        family,
        &std::fs::read(folder(family).join("config.json")).unwrap(),
    )
}

/// The two sequences of a golden.
fn sequences(golden: &Tensors) -> [Vec<u32>; 2] {
    let lens = golden["lens"].to_vec1::<i64>().unwrap();
    let rows = golden["input_ids"].to_vec2::<i64>().unwrap();
    [0, 1].map(|i| {
        rows[i][..lens[i] as usize]
            .iter()
            .map(|id| *id as u32)
            .collect()
    })
}

fn pass<'a>(segments: &'a Segments, mixture: Option<&'a Mixture>) -> Pass<'a> {
    Pass {
        segments,
        tasks: &[],
        mixture,
        probe: None,
    }
}

/// Logits `[t, v]` of packed sequences.
fn logits(base: &Base, sequences: &[Vec<u32>], mixture: Option<&Mixture>) -> Tensor {
    let lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let segments = Segments::new(&lens);
    let pass = pass(&segments, mixture);
    let hidden = base
        .decoder
        .hidden(&sequences.concat(), None, &pass)
        .unwrap();
    base.decoder.logits(&hidden, Logits::All).unwrap()
}

/// The largest difference between two tensors of one shape.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = a.sub(b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

/// The largest absolute value.
fn size(a: &Tensor) -> f32 {
    apart(a, &a.zeros_like().unwrap())
}

/// The adapter peft made, as variables: A and B by site.
fn adapter(family: &str) -> (BTreeMap<Site, (Var, Var)>, f64) {
    let read = std::fs::read(folder(family).join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read).unwrap();
    let number = |name: &str| config[name].as_f64().unwrap();
    let scale = number("lora_alpha") / number("r");
    let all = tensors(&folder(family).join("adapter_model.safetensors"));
    let var = |name: String| Var::from_tensor(&all[&name].to_dtype(DType::F32).unwrap()).unwrap();
    let site = |name: &String| {
        let path = name.strip_suffix(".lora_A.weight")?;
        let factors = (var(name.clone()), var(format!("{path}.lora_B.weight")));
        let path = path.strip_prefix("base_model.model.").unwrap();
        Some((Site::new(path), factors))
    };
    let sites: BTreeMap<_, _> = all.keys().filter_map(site).collect();
    assert_eq!(sites.len() * 2, all.len());
    (sites, scale)
}

fn mixture(sites: &BTreeMap<Site, (Var, Var)>, scale: f64) -> Mixture {
    let lora = |(site, (a, b)): (&Site, &(Var, Var))| {
        let (a, b) = (a.as_tensor().clone(), b.as_tensor().clone());
        (site.clone(), Lora { a, b, scale })
    };
    let loras: BTreeMap<Site, Lora> = sites.iter().map(lora).collect();
    Mixture {
        bank: Arc::new(Bank::new([(Name::new("golden").unwrap(), &loras)]).unwrap()),
        router: Arc::new(Fixed::new(&[1.0]).unwrap()),
        mixing: Mixing::Outputs,
    }
}

#[test]
fn logits_equal_the_reference_ragged_and_one_by_one() {
    for family in families() {
        let (base, golden) = (
            base(family),
            tensors(&folder(family).join("golden.safetensors")),
        );
        let both = sequences(&golden);
        let got = logits(&base, &both, None);
        let off = apart(&got, &golden["logits"]);
        assert!(size(&got) > 0.5 && off < 2e-4, "{family}: {off}");
        let alone: Vec<Tensor> = both
            .iter()
            .map(|one| logits(&base, std::slice::from_ref(one), None))
            .collect();
        let off = apart(&got, &Tensor::cat(&alone, 0).unwrap());
        assert!(off < 1e-5, "{family}: {off} from one by one");
    }
}

#[test]
fn adapters_made_by_peft_give_pefts_logits_and_gradients_at_every_site() {
    for family in families() {
        let (base, golden) = (
            base(family),
            tensors(&folder(family).join("golden.safetensors")),
        );
        let (sites, scale) = adapter(family);
        let known: Vec<Site> = base
            .decoder
            .config()
            .sites()
            .into_iter()
            .map(|s| s.0)
            .collect();
        assert_eq!(sites.len(), known.len(), "{family}: peft adapts every site");
        assert!(
            known.iter().all(|site| sites.contains_key(site)),
            "{family}"
        );
        let mixture = mixture(&sites, scale);
        let both = sequences(&golden);
        let got = logits(&base, &both, Some(&mixture));
        let off = apart(&got, &golden["peft.logits"]);
        assert!(off < 2e-4, "{family}: {off}");
        assert!(
            apart(&got, &golden["logits"]) > 0.01,
            "{family}: the adapter does nothing"
        );
        // The mean over every next token.
        let (mut rows, mut ids, mut at) = (Vec::new(), Vec::new(), 0);
        for one in &both {
            rows.extend((at..at + one.len() - 1).map(|i| i as u32));
            ids.extend_from_slice(&one[1..]);
            at += one.len();
        }
        let rows = Tensor::from_slice(&rows, rows.len(), &Device::Cpu).unwrap();
        let losses = lyceum::ops::cross_entropy(&got.index_select(&rows, 0).unwrap(), &ids.into());
        let loss = losses.unwrap().mean_all().unwrap();
        let off = apart(&loss.reshape(1).unwrap(), &golden["loss"]);
        assert!(off < 1e-5, "{family}: loss {off}");
        let gradients = loss.backward().unwrap();
        for (site, (a, b)) in &sites {
            for (var, name) in [(a, "lora_A"), (b, "lora_B")] {
                let want = &golden[&format!("grad.{site}.{name}")];
                let off = apart(gradients.get(var.as_tensor()).unwrap(), want) / size(want);
                assert!(off < 1e-4, "{family} {site} {name}: {off}");
            }
        }
    }
}

/// Feeds tokens `some` at a time and gives the logits of all.
fn in_pieces(base: &Base, cache: &mut Cache, tokens: &[u32], some: usize) -> Tensor {
    let piece = |piece: &[u32], cache: &mut Cache| {
        let segments = Segments::after(&[piece.len()], cache.lens());
        let pass = pass(&segments, None);
        let hidden = base.decoder.hidden(piece, Some(cache), &pass).unwrap();
        base.decoder.logits(&hidden, Logits::All).unwrap()
    };
    let all: Vec<Tensor> = tokens.chunks(some).map(|t| piece(t, cache)).collect();
    Tensor::cat(&all, 0).unwrap()
}

#[test]
fn greedy_continuations_with_a_cache_are_the_references() {
    for family in families() {
        let (base, golden) = (
            base(family),
            tensors(&folder(family).join("golden.safetensors")),
        );
        let [long, _] = sequences(&golden);
        let want: Vec<i64> = golden["greedy"].to_vec1().unwrap();
        let mut cache = base.decoder.cache(1);
        let mut next = long[..5].to_vec();
        let mut got = Vec::new();
        while got.len() < want.len() {
            let logits = in_pieces(&base, &mut cache, &next, 5);
            let row = logits.get(logits.dims()[0] - 1).unwrap();
            next = vec![row.argmax(0).unwrap().to_scalar::<u32>().unwrap()];
            got.push(i64::from(next[0]));
        }
        assert_eq!(got, want, "{family}");
        // Beyond every window, in pieces or at once.
        let pieces = in_pieces(&base, &mut base.decoder.cache(1), &long, 3);
        let off = apart(&pieces, &logits(&base, &[long], None));
        assert!(off < 1e-5, "{family}: {off}");
    }
}

#[test]
fn variants_of_the_same_weights_equal_the_reference() {
    let text = std::fs::read(folder("variants.json")).unwrap();
    let configs: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let want = tensors(&folder("variants.safetensors"));
    assert_eq!(configs.len(), want.len());
    for (name, config) in configs {
        let family = name.split('/').next().unwrap();
        let golden = tensors(&folder(family).join("golden.safetensors"));
        let base = base_of(family, config.to_string().as_bytes());
        let off = apart(&logits(&base, &sequences(&golden), None), &want[&name]);
        assert!(off < 2e-4, "{name}: {off}");
        let plain = apart(&want[&name], &golden["logits"]);
        assert!(plain > 0.01, "{name}: the variant does nothing");
    }
}

#[expect(dead_code, reason = "the example's own main")]
#[path = "../../examples/llama2c.rs"]
mod llama2c;

#[derive(serde::Deserialize)]
struct Story {
    text: String,
    prompt: Vec<u32>,
    story: Vec<u32>,
}

#[test]
fn a_trained_llama_tells_the_stories_its_authors_program_tells() {
    let from = folder("../stories260K");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    llama2c::convert(&read("stories260K.bin"), &read("tok512.bin"), dir.path()).unwrap();
    let base = Arc::new(Base::open(dir.path(), Precision::F32).unwrap());
    let stories: Vec<Story> = serde_json::from_slice(&read("stories.json")).unwrap();
    let model = lyceum::model::Model::new(base.clone(), None);
    // All of them together: batching changes nothing.
    let prompts: Vec<Vec<u32>> = stories.iter().map(|s| s.prompt.clone()).collect();
    let told = model.generate(&prompts, &[], 256, |_, _| {}).unwrap();
    for (story, told) in stories.iter().zip(told) {
        // The reference was given 256 tokens for prompt and story.
        assert!(story.story.len() > 150);
        assert_eq!(told[..story.story.len()], story.story, "{}", story.text);
        if story.prompt.len() + story.story.len() < 256 {
            assert_eq!(told.len(), story.story.len(), "the story has an end");
        }
        if story.prompt.len() > 1 {
            let ids = base.tokenizer.encode(&story.text).unwrap();
            assert_eq!(ids, story.prompt[1..], "{}", story.text);
        }
    }
    assert!(
        base.tokenizer
            .decode(&stories[0].story)
            .unwrap()
            .starts_with("Once upon a time")
    );
}

/// A golden's configuration with some fields changed.
fn changed(family: &str, changes: serde_json::Value) -> Vec<u8> {
    let read = std::fs::read(folder(family).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&read).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

fn refusal(family: &str, changes: serde_json::Value) -> String {
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
        (
            "llama",
            json!({ "quantization_config": { "bits": 4 } }),
            "`quantization_config`",
        ),
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
            "gemma",
            json!({ "hidden_act": "gelu", "hidden_activation": null }),
            "gelu_pytorch_tanh",
        ),
        (
            "gpt2",
            json!({ "add_cross_attention": true }),
            "`add_cross_attention`",
        ),
    ];
    for (family, changes, why) in cases {
        let said = refusal(family, changes);
        assert!(said.contains(why), "{said}");
    }
    // What changes nothing is no reason to refuse, and neither is a field that is off.
    for changes in [
        json!({ "torch_dtype": "float16", "temperature": 0.6 }),
        json!({ "odd": null }),
    ] {
        lyceum::backbone::Config::parse(&changed("llama", changes), "config.json").unwrap();
    }
}

/// Writes tensors as one file, in f32, bf16 or f16.
fn write(path: &Path, tensors: &Tensors, dtype: DType) {
    let cast = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap());
    let all: BTreeMap<String, Tensor> = tensors.iter().map(cast).collect();
    std::fs::write(path, safetensors::serialize(all, None).unwrap()).unwrap();
}

/// A folder of the family's configuration with weights that `lay` puts there.
fn laid(family: &str, lay: impl Fn(&Path, Tensors)) -> lyceum::Result<Base> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(
        folder(family).join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
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
    // Experts remember them: a change here makes every library out there stale.
    let want: BTreeMap<String, String> =
        serde_json::from_slice(&std::fs::read(folder("fingerprints.json")).unwrap()).unwrap();
    let got: BTreeMap<String, String> = families()
        .map(|family| (family.into(), base(family).fingerprint))
        .collect();
    assert_eq!(got, want);
    let embedded = lyceum::assets::base(Precision::F32).unwrap().fingerprint;
    assert_eq!(embedded, EMBEDDED);
}

/// The embedded base's fingerprint, as it was when only GPT-Neo was known.
const EMBEDDED: &str = "42a5d326eff4f0e985354ea3c2955eaa3b539ad24192a3a28fa426a7777c0dc3";

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
    let chat = base.chat.as_ref().unwrap();
    let said = chat
        .prompt(&[message("system", " be brief "), message("user", "hi ")])
        .unwrap();
    assert_eq!(said, "<s><|sys|>be brief<|user|>hi<|bot|>");
    let refused = chat
        .prompt(&[message("tool", "x")])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no tool"), "{refused}");
    // Generation ends at any of them.
    let golden = tensors(&folder("llama").join("golden.safetensors"));
    let [long, _] = sequences(&golden);
    let greedy: Vec<i64> = golden["greedy"].to_vec1().unwrap();
    let model = lyceum::model::Model::new(Arc::new(base), None);
    let told = model
        .generate(&[long[..5].to_vec()], &[], 12, |_, _| {})
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
        let base = base_of("llama", &changed("llama", changes));
        assert_eq!(base.decoder.config().max_position_embeddings, longest);
        let segments = Segments::new(&[longest + 1]);
        let tokens = vec![3; longest + 1];
        let result = base.decoder.hidden(&tokens, None, &pass(&segments, None));
        assert!(result.unwrap_err().to_string().contains("positions"));
    }
}
