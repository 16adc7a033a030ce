//! Experts, libraries and bases made up for the laws.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lyceum::Name;
use lyceum::artifact::Artifact;
use lyceum::backbone::{Base, Precision};
use lyceum::expert::Expert;
use lyceum::library::{Library, Members};
use lyceum::lora::{Lora, LoraConfig};
use lyceum::mix::{Mixing, SeqLens};
use lyceum::model::Model;
use lyceum::name::Site;
use lyceum::rng::Rng;
use lyceum::route::{self, Router};
use lyceum::store::Put;

use crate::golden;

pub(crate) fn random(rng: &mut Rng, rows: usize, columns: usize, sd: f64) -> Tensor {
    let values = rng.normal(rows * columns, sd);
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

/// A random expert of the tiny base, drawn by `seed` and serving the task `t{seed}`, whatever it
/// is called.
pub(crate) fn expert(text: &str, seed: u64, lora: LoraConfig) -> Expert {
    let mut loras = BTreeMap::new();
    for (site, (d_out, d_in)) in golden::base().host().sites {
        if lora.adapts(&site) {
            let mut rng = Rng::named(seed, site.as_str());
            let rank = lora.rank_at(&site);
            let a = random(&mut rng, rank, d_in, 0.2);
            let b = random(&mut rng, d_out, rank, 0.2);
            let one = Lora::new(a, b, lora.scale_at(&site)).unwrap();
            loras.insert(site, one);
        }
    }
    let mut card = golden::card(text, lora);
    card.tasks = vec![golden::name(&format!("t{seed}"))];
    Expert::new(card, loras).unwrap()
}

/// A library of `experts`, each with a random Arrow prototype and PhatGOOSE gate per site that
/// belongs to its task, so that they follow an expert under any name.
pub(crate) fn library(experts: &[Expert]) -> Library {
    let library = golden::empty_library();
    for expert in experts {
        library.add(expert, Put::New).unwrap();
        for kind in ["arrow", "phatgoose"] {
            let vector = |(site, lora): (&Site, &Lora)| {
                let mut rng = Rng::named(7, &format!("{kind} {} {site}", expert.card.tasks[0]));
                let row = random(&mut rng, 1, lora.d_in(), 1.0);
                (site.clone(), row.squeeze(0).unwrap())
            };
            let artifact = Artifact {
                kind: golden::name(kind),
                spec: serde_json::json!({ "made": "at random" }),
                expert: expert.card.name.clone(),
                made_from: expert.fingerprint().to_owned(),
                vectors: expert.loras.iter().map(vector).collect(),
            };
            library.put_artifact(&artifact).unwrap();
        }
    }
    library
}

/// The router called `router` over all of `library`, merged experts too, with `top_k` if it takes
/// one.
pub(crate) fn routed(library: &Library, router: &str, top_k: Option<usize>, how: Mixing) -> Model {
    let takes = route::about(router).unwrap().takes("top_k");
    let spec = Router::named(router).unwrap();
    let spec = spec.top_k(top_k.filter(|_| takes));
    let library = library.members(&Members::All).unwrap();
    Model::routed(golden::base(), &library, &spec, how).unwrap()
}

/// Random sequences of different lengths, one task each.
pub(crate) struct Text {
    pub(crate) rows: Vec<Vec<u32>>,
    pub(crate) tasks: Vec<Name>,
}

impl Text {
    pub(crate) fn new(tasks: &[&str]) -> Self {
        let mut rng = Rng::named(11, "text");
        let row = |i: usize| (0..5 + 6 * i).map(|_| 1 + rng.below(511) as u32).collect();
        Text {
            rows: (0..tasks.len()).map(row).collect(),
            tasks: tasks.iter().map(|task| golden::name(task)).collect(),
        }
    }

    pub(crate) fn seq_lens(&self) -> SeqLens {
        let lens: Vec<usize> = self.rows.iter().map(Vec::len).collect();
        SeqLens::new(&lens)
    }

    pub(crate) fn tokens(&self) -> Vec<u32> {
        self.rows.concat()
    }

    /// Logits of all rows together, `[t, v]`.
    pub(crate) fn logits(&self, model: &Model) -> Tensor {
        model
            .logits(&self.tokens(), &self.seq_lens(), &self.tasks)
            .unwrap()
    }

    /// Logits of row `i` alone.
    pub(crate) fn alone(&self, model: &Model, i: usize) -> Tensor {
        let seq_lens = SeqLens::new(&[self.rows[i].len()]);
        model
            .logits(&self.rows[i], &seq_lens, &self.tasks[i..=i])
            .unwrap()
    }
}

/// The tiny base with `sum w s B A` of some experts added to its matrices: no adapter, no router.
pub(crate) fn merged_base(experts: &[(&Expert, f64)]) -> Arc<Base> {
    let mut tensors = golden::tensors("gpt-neo-tiny/model.safetensors");
    for (expert, weight) in experts {
        for (site, lora) in &expert.loras {
            let matrix = tensors.get_mut(&format!("{site}.weight")).unwrap();
            let delta = (lora.b.matmul(&lora.a).unwrap() * (weight * lora.scale)).unwrap();
            *matrix = (&*matrix + delta).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let from = golden::path("gpt-neo-tiny").join(file);
        std::fs::copy(from, dir.path().join(file)).unwrap();
    }
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    Arc::new(Base::open(dir.path(), Precision::F32).unwrap())
}
