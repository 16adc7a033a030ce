//! The golden values, read once: `tests/golden/README.md` names the source of each file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use candle_core::{Device, Tensor};
use lyceum::Name;
use lyceum::artifact::Artifact;
use lyceum::backbone::{Base, Precision};
use lyceum::data::{Dataset, Tokens};
use lyceum::expert::{Card, Expert};
use lyceum::library::Library;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::mix::SeqLens;
use lyceum::model::Batch;
use lyceum::name::Site;
use lyceum::store::Put;
use serde_json::Value;

/// A file of the goldens. Cargo names the crate's folder when it runs the tests; a binary that is
/// run elsewhere (`bench/gpu`) is told.
pub(crate) fn path(name: &str) -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = root.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(root).join("tests/golden").join(name)
}

pub(crate) fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let all = candle_core::safetensors::load(path(name), &Device::Cpu).unwrap();
    all.into_iter().collect()
}

pub(crate) fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

pub(crate) fn floats(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|x| x.as_f64().unwrap()).collect()
}

/// The tiny base, in f32.
pub(crate) fn base() -> Arc<Base> {
    static BASE: LazyLock<Arc<Base>> =
        LazyLock::new(|| Arc::new(Base::open(&path("gpt-neo-tiny"), Precision::F32).unwrap()));
    BASE.clone()
}

pub(crate) fn tasks() -> Dataset {
    Dataset::open(&path("tasks.jsonl")).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A library in memory that no other test sees.
pub(crate) fn empty_library() -> Library {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Library::create(&format!("memory://golden-{number}")).unwrap()
}

/// The tensors below `prefix` as adapters: MTTL's `lora_a` `[d_in, r]` and `lora_b` `[r, d_out]`.
pub(crate) fn adapters(
    tensors: &BTreeMap<String, Tensor>,
    prefix: &str,
    scale: f64,
) -> BTreeMap<Site, Lora> {
    let mut loras = BTreeMap::new();
    for (key, a) in tensors {
        let rest = key.strip_prefix(prefix);
        if let Some(site) = rest.and_then(|rest| rest.strip_suffix(".lora_a")) {
            let turned = |t: &Tensor| t.t().unwrap().contiguous().unwrap();
            let b = &tensors[&format!("{prefix}{site}.lora_b")];
            let lora = Lora::new(turned(a), turned(b), scale).unwrap();
            loras.insert(Site::new(site), lora);
        }
    }
    assert!(!loras.is_empty(), "no adapter below {prefix}");
    loras
}

/// A card for an expert of the tiny base.
pub(crate) fn card(text: &str, lora: LoraConfig) -> Card {
    Card {
        name: name(text),
        base: Some(base().fingerprint.clone()),
        base_family: None,
        base_name: base().name.clone(),
        tasks: vec![name(text)],
        lora,
        origin: serde_json::json!({ "golden": "mttl-library" }),
        losses: Vec::new(),
        weights: String::new(),
    }
}

/// The four experts MTTL trained, sorted by name.
pub(crate) fn experts() -> Vec<Expert> {
    let tensors = tensors("experts.safetensors");
    let all = ["color_of", "is_greater", "last_word", "who_has"];
    all.map(|text| {
        let lora = LoraConfig::default();
        let loras = adapters(&tensors, &format!("{text}."), 0.25);
        Expert::new(card(text, lora), loras).unwrap()
    })
    .to_vec()
}

/// The four experts with Arrow prototypes derived here and the PhatGOOSE gates MTTL trained.
pub(crate) fn library() -> Library {
    let library = empty_library();
    let trace = tensors("phatgoose_trace.safetensors");
    for expert in experts() {
        library.add(&expert, Put::New).unwrap();
        let prefix = format!("{}.gate.", expert.card.name);
        let gate =
            |(key, v): (&String, &Tensor)| Some((Site::new(key.strip_prefix(&prefix)?), v.clone()));
        let gates = Artifact {
            kind: name("phatgoose"),
            spec: serde_json::json!({ "golden": "mttl-library" }),
            expert: expert.card.name.clone(),
            made_from: expert.fingerprint().to_owned(),
            vectors: trace.iter().filter_map(gate).collect(),
        };
        library.put_artifact(&gates).unwrap();
    }
    lyceum::transform::arrow(&library).unwrap();
    library
}

/// A padded batch without its padding.
pub(crate) struct Rows {
    pub(crate) examples: Vec<Tokens>,
}

impl Rows {
    /// From `input_ids`, `attention_mask` and `labels` (-100 where there is no target) below
    /// `prefix`, each `[b, t]`.
    pub(crate) fn new(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> Self {
        let field = |name: &str| {
            tensors[&format!("{prefix}{name}")]
                .to_vec2::<i64>()
                .unwrap()
        };
        let (ids, mask, labels) = (field("input_ids"), field("attention_mask"), field("labels"));
        let row = |((ids, mask), labels): ((Vec<i64>, Vec<i64>), Vec<i64>)| {
            let real: Vec<usize> = (0..ids.len()).filter(|&i| mask[i] == 1).collect();
            let target = |&&i: &&usize| labels[i] != -100;
            let targets = real.iter().filter(target).count();
            let from = real.len() - targets;
            assert!(targets > 0 && real[from..].iter().all(|&i| labels[i] == ids[i]));
            Tokens {
                ids: real.iter().map(|&i| ids[i] as u32).collect(),
                from,
            }
        };
        let rows = ids.into_iter().zip(mask).zip(labels).map(row);
        Rows {
            examples: rows.collect(),
        }
    }

    pub(crate) fn batch(&self, tasks: &[Name]) -> Batch {
        Batch::new(self.examples.iter().zip(tasks.iter().cloned()))
    }

    pub(crate) fn tokens(&self) -> Vec<u32> {
        self.examples.iter().flat_map(|e| e.ids.clone()).collect()
    }

    pub(crate) fn seq_lens(&self) -> SeqLens {
        let lens: Vec<usize> = self.examples.iter().map(|e| e.ids.len()).collect();
        SeqLens::new(&lens)
    }
}

/// A copy on the CPU.
pub(crate) fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.to_device(&Device::Cpu).unwrap()
}

/// Largest absolute difference.
pub(crate) fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (on_cpu(a) - on_cpu(b)).unwrap().abs().unwrap();
    let values = difference.flatten_all().unwrap();
    let values = values.to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|x| x.is_finite()));
    values.into_iter().fold(0.0, f32::max)
}

/// `|a - b| / |b|` in Frobenius norms.
pub(crate) fn relative(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |t: &Tensor| {
        let square = t.sqr().unwrap().sum_all().unwrap();
        f64::from(square.to_scalar::<f32>().unwrap()).sqrt()
    };
    let difference = norm(&(on_cpu(a) - on_cpu(b)).unwrap());
    let size = norm(b);
    assert!(difference.is_finite() && size > 0.0);
    difference / size
}
