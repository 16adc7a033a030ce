//! Experts of different ranks, alphas, layers and dtypes in one router, and merged.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use lyceum::Hint;
use lyceum::data::Split;
use lyceum::expert::Expert;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::merge::{Knobs, MERGES, MergeSpec, Truncation, merge};
use lyceum::mix::Mixing;
use lyceum::model::Model;
use lyceum::name::Site;
use lyceum::progress::NoProgress;
use lyceum::route::ROUTERS;
use lyceum::store::Put;
use lyceum::train::{Job, TrainConfig, experts as train};
use lyceum::transform::{Phatgoose, arrow, phatgoose};

use crate::golden;
use crate::made::{self, Text};

fn config(rank: usize, alpha: f64, rslora: bool, targets: &[&str]) -> LoraConfig {
    LoraConfig::default()
        .rank(rank)
        .alpha(alpha)
        .rslora(rslora)
        .targets(targets.iter().copied())
}

/// Three experts that differ in everything; the second has been through bf16, the third has
/// ranks and alphas of its own at some layers.
pub(crate) fn experts() -> Vec<Expert> {
    let mut patterned = config(
        3,
        4.0,
        true,
        &["q_proj", "k_proj", "c_proj", "h.1.mlp.c_fc"],
    );
    patterned.rank_pattern = BTreeMap::from([("k_proj".into(), 7), ("h.2.mlp.c_proj".into(), 1)]);
    patterned.alpha_pattern = BTreeMap::from([("h.0.attn.attention.q_proj".into(), 0.5)]);
    let all = ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc"];
    vec![
        made::expert("a", 1, config(2, 1.0, false, &["q_proj", "v_proj"])),
        halved(made::expert("b", 2, config(5, 8.0, false, &all))),
        made::expert("c", 3, patterned),
    ]
}

fn halved(expert: Expert) -> Expert {
    let half = |t: Tensor| {
        t.to_dtype(DType::BF16)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
    };
    let loras = expert.loras.into_iter().map(|(site, lora)| {
        let (a, b) = (half(lora.a), half(lora.b));
        (site, Lora { a, b, ..lora })
    });
    Expert::new(expert.card, loras.collect()).unwrap()
}

/// The same function with rank 8 and scale 1 everywhere: zero rows in A, the scale in B.
fn evened(expert: &Expert) -> Expert {
    let even = |lora: &Lora| {
        let fill = 8 - lora.rank();
        Lora {
            a: lora.a.pad_with_zeros(0, 0, fill).unwrap(),
            b: (&lora.b * lora.scale)
                .unwrap()
                .pad_with_zeros(1, 0, fill)
                .unwrap(),
            scale: 1.0,
        }
    };
    let mut card = expert.card.clone();
    card.lora = config(8, 8.0, false, &[]);
    card.lora.targets.clone_from(&expert.card.lora.targets);
    let loras = expert
        .loras
        .iter()
        .map(|(site, lora)| (site.clone(), even(lora)));
    Expert::new(card, loras.collect()).unwrap()
}

#[test]
fn mixed_ranks_and_scales_equal_their_even_twins_in_every_router() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let experts = experts();
    let (mixed, even) = (
        made::library(&experts),
        made::library(&experts.iter().map(evened).collect::<Vec<_>>()),
    );
    for about in ROUTERS {
        for top_k in [None, Some(1), Some(2)] {
            let logits = [&mixed, &even].map(|library| {
                text.logits(&made::routed(library, about.name, top_k, Mixing::Outputs))
            });
            let apart = golden::apart(&logits[0], &logits[1]);
            assert!(apart < 2e-4, "{} {top_k:?}: {apart} apart", about.name);
        }
    }
}

#[test]
fn arrow_points_the_same_way_whatever_rank_and_scale_say() {
    let pair = [experts(), experts().iter().map(evened).collect()].map(|experts| {
        let library = golden::empty_library();
        for expert in &experts {
            library.add(expert, Put::New).unwrap();
        }
        assert_eq!(arrow(&library).unwrap().len(), 3);
        library.artifact(&golden::name("arrow"), None).unwrap()
    });
    for (name, artifact) in &pair[0] {
        for (site, vector) in &artifact.vectors {
            let other = &pair[1][name].vectors[site];
            let dot = (vector * other).unwrap().sum_all().unwrap();
            let cosine = dot.to_scalar::<f32>().unwrap().abs();
            assert!(cosine > 0.99999, "{name} at {site}: {cosine}");
        }
    }
}

#[test]
fn oracle_and_uniform_over_mixed_experts_equal_dense_merges() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let experts = experts();
    let library = made::library(&experts);
    let oracle = made::routed(&library, "oracle", None, Mixing::Outputs);
    for (i, expert) in experts.iter().enumerate() {
        let dense = Model::new(made::merged_base(&[(expert, 1.0)]));
        let apart = golden::apart(&text.alone(&oracle, i), &text.alone(&dense, i));
        assert!(apart < 2e-4, "{}: {apart} apart", expert.card.name);
    }
    let thirds: Vec<(&Expert, f64)> = experts.iter().map(|e| (e, 1.0 / 3.0)).collect();
    let dense = text.logits(&Model::new(made::merged_base(&thirds)));
    let uniform = made::routed(&library, "uniform", None, Mixing::Outputs);
    let apart = golden::apart(&text.logits(&uniform), &dense);
    assert!(apart < 2e-4, "uniform: {apart} apart");
}

#[test]
fn factors_refuse_mixed_experts_and_say_what_to_do() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let library = made::library(&experts());
    for about in ROUTERS.iter().filter(|about| about.name != "base") {
        let model = made::routed(&library, about.name, None, Mixing::Factors);
        let error = model
            .logits(&text.tokens(), &text.seq_lens(), &text.tasks)
            .unwrap_err();
        let outputs = Hint::Set {
            option: "mixing",
            value: "outputs",
        };
        assert_eq!(error.hints(), [outputs], "{}: {error}", about.name);
    }
}

#[test]
fn exact_merges_of_mixed_experts_equal_uniform_and_the_others_refuse_them() {
    let text = Text::new(&["t1", "t2", "t3"]);
    let experts = experts();
    let uniform = made::routed(&made::library(&experts), "uniform", None, Mixing::Outputs);
    for about in MERGES {
        let spec = MergeSpec::new(about.name, Knobs::default()).unwrap();
        let merged = merge(&experts, &spec, &golden::name("merged"));
        if !EXACT.contains(&about.name) {
            let error = merged.unwrap_err().to_string();
            assert!(
                error.contains("`linear` or `cat`"),
                "{}: {error}",
                about.name
            );
            continue;
        }
        let merged = merged.unwrap();
        assert_eq!(merged.card.tasks.len(), 3);
        let library = made::library(std::slice::from_ref(&merged));
        // Through a store and back: its card says its ranks, so the scales survive.
        let back = library.expert(&merged.card.name).unwrap();
        assert_eq!(back.fingerprint(), merged.fingerprint());
        let one = made::routed(&library, "oracle", None, Mixing::Outputs);
        let apart = golden::apart(&text.logits(&one), &text.logits(&uniform));
        assert!(apart < 2e-4, "{apart} apart");
    }
}

/// The merges whose update is the weighted sum of the experts' updates.
const EXACT: [&str; 2] = ["linear", "cat"];

/// `scale B A` of an expert at every site, in f64.
fn updates(expert: &Expert) -> BTreeMap<Site, Tensor> {
    let update = |(site, l): (&Site, &Lora)| {
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let update = wide(&l.b).matmul(&wide(&l.a)).unwrap();
        (site.clone(), (update * l.scale).unwrap())
    };
    expert.loras.iter().map(update).collect()
}

/// The norm of the difference of `merged` and the weighted sum, as a share of that of the sum.
fn off(merged: &Expert, experts: &[Expert], weights: &[f64]) -> f64 {
    let mut want: BTreeMap<Site, Tensor> = BTreeMap::new();
    for (expert, weight) in experts.iter().zip(weights) {
        for (site, update) in updates(expert) {
            let term = (update * *weight).unwrap();
            let sum = match want.remove(&site) {
                Some(sum) => (sum + term).unwrap(),
                None => term,
            };
            want.insert(site, sum);
        }
    }
    let square = |t: &Tensor| {
        t.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    let got = updates(merged);
    assert!(got.keys().eq(want.keys()));
    let apart: f64 = got
        .iter()
        .map(|(s, got)| square(&(got - &want[s]).unwrap()))
        .sum();
    let whole: f64 = want.values().map(square).sum();
    (apart / whole).sqrt()
}

fn weighted(method: &str, weights: &[f64], rank: Option<usize>) -> MergeSpec {
    let names = ["a", "b", "c"].map(golden::name);
    let knobs = Knobs {
        weights: Some(names.into_iter().zip(weights.iter().copied()).collect()),
        rank,
        ..Knobs::default()
    };
    MergeSpec::new(method, knobs).unwrap()
}

#[test]
fn merges_that_say_weighted_give_w_times_the_update() {
    let experts = experts();
    for method in EXACT {
        // One expert alone, of any rank, scale and layers.
        for expert in &experts {
            for weight in [-1.0, 2.0, 0.5, -0.25, 1e-6, 1e6] {
                let name = expert.card.name.clone();
                let knobs = Knobs {
                    weights: Some(BTreeMap::from([(name, weight)])),
                    ..Knobs::default()
                };
                let spec = MergeSpec::new(method, knobs).unwrap();
                let one = std::slice::from_ref(expert);
                let merged = merge(one, &spec, &golden::name("m")).unwrap();
                let off = off(&merged, one, &[weight]);
                assert!(off < 1e-6, "{method} at {weight}: {off}");
                assert!(merged.card.is_merge());
            }
        }
        for weights in [
            [1.0, -1.0, 0.0],
            [0.5, -0.5, 1.0],
            [1.0, 0.0, 0.0],
            [3.0, 2.0, -7.0],
        ] {
            let spec = weighted(method, &weights, None);
            let merged = merge(&experts, &spec, &golden::name("m")).unwrap();
            let off = off(&merged, &experts, &weights);
            assert!(off < 1e-6, "{method} {weights:?}: {off}");
        }
    }
}

#[test]
fn a_merge_cut_to_a_rank_says_what_it_lost() {
    let experts = experts();
    let weights = [1.0, 0.5, -0.5];
    let mut before = f64::INFINITY;
    for rank in [1, 2, 5, 100] {
        let spec = weighted("linear", &weights, Some(rank));
        let merged = merge(&experts, &spec, &golden::name("m")).unwrap();
        assert!(merged.loras.values().all(|lora| lora.rank() <= rank));
        let said = Truncation::of(&merged.card).unwrap();
        let off = off(&merged, &experts, &weights);
        assert!(
            (off - said.relative_error).abs() < 1e-6,
            "rank {rank}: {off} {said:?}"
        );
        assert!(said.relative_error <= said.worst_site_error);
        assert!(merged.loras.contains_key(said.worst_site.as_str()));
        assert!(off < before, "rank {rank}: {off}");
        before = off;
        assert_eq!(merged.card.origin["merge"]["rank"], rank);
        // Its ranks are its own: through a store and back.
        let library = made::library(std::slice::from_ref(&merged));
        let back = library.expert(&merged.card.name).unwrap();
        assert_eq!(back.fingerprint(), merged.fingerprint());
    }
    assert!(before < 1e-6);
    let merged = merge(
        &experts,
        &weighted("linear", &weights, None),
        &golden::name("m"),
    )
    .unwrap();
    assert_eq!(Truncation::of(&merged.card), None);
}

#[test]
fn factor_linear_is_quadratic_and_says_so() {
    let one = golden::experts().remove(0);
    let spec = |weight: f64| {
        let knobs = Knobs {
            weights: Some(BTreeMap::from([(one.card.name.clone(), weight)])),
            ..Knobs::default()
        };
        MergeSpec::new("factor-linear", knobs)
    };
    let one = std::slice::from_ref(&one);
    let half = merge(one, &spec(0.5).unwrap(), &golden::name("m")).unwrap();
    assert!(off(&half, one, &[0.25]) < 1e-6);
    assert!(spec(0.5).unwrap().caution().unwrap().contains("0.25 times"));
    assert!(spec(-1.0).unwrap_err().to_string().contains("`linear`"));
    // A specification that was not made by `new` is looked at too.
    let text = r#"{"merge":"factor-linear","weights":{"color_of":-1.0}}"#;
    let spec: MergeSpec = serde_json::from_str(text).unwrap();
    assert!(merge(one, &spec, &golden::name("m")).is_err());
}

#[test]
fn an_expert_is_merged_once() {
    let one = golden::experts().remove(0);
    let spec = MergeSpec::new("linear", Knobs::default()).unwrap();
    let error = merge(&[one.clone(), one], &spec, &golden::name("m")).unwrap_err();
    assert!(error.to_string().contains("merged twice"), "{error}");
}

#[test]
fn a_merge_of_one_expert_is_that_expert() {
    let experts = vec![golden::experts().remove(0)];
    let knobs = |name: &str| Knobs {
        density: (name == "ties").then_some(1.0),
        ..Knobs::default()
    };
    for about in MERGES {
        let spec = MergeSpec::new(about.name, knobs(about.name)).unwrap();
        let merged = merge(&experts, &spec, &golden::name("merged")).unwrap();
        for (site, lora) in &merged.loras {
            let delta = |l: &Lora| (l.b.matmul(&l.a).unwrap() * l.scale).unwrap();
            let apart = golden::relative(&delta(lora), &delta(&experts[0].loras[site]));
            assert!(apart < 1e-6, "{} at {site}: {apart} apart", about.name);
        }
    }
}

#[test]
fn experts_of_mixed_ranks_are_trained_and_kept() {
    let lora = LoraConfig::default().rank_pattern(BTreeMap::from([("k_proj".into(), 2)]));
    let task = golden::name("color_of");
    let data = golden::tasks();
    let examples = data
        .select(std::slice::from_ref(&task), Split::Train)
        .unwrap();
    let job = Job::new(task.clone(), vec![task.clone()], examples);
    let how = TrainConfig::default().steps(2);
    let trained = train(&golden::base(), &[job], &lora, &how, &mut NoProgress).unwrap();
    let library = golden::empty_library();
    library.add(&trained[0].0, Put::New).unwrap();
    let back = library.expert(&task).unwrap();
    assert_eq!(back.loras.len(), 12);
    for (site, lora) in &back.loras {
        let rank = if site.last() == "k_proj" { 2 } else { 4 };
        assert_eq!((lora.rank(), lora.scale), (rank, 1.0 / rank as f64));
        assert!(lora.norm().unwrap() > 0.0);
    }
}

#[test]
fn gates_of_mixed_experts_train_together_as_alone() {
    let data = golden::tasks();
    let tasks = data.tasks();
    let how = Phatgoose::default().steps(3).lr(1e-2);
    let experts: Vec<Expert> = experts()
        .into_iter()
        .zip(&tasks)
        .map(|(mut expert, task)| {
            expert.card.tasks = vec![task.clone()];
            expert
        })
        .collect();
    let derive = |experts: &[Expert]| {
        let library = golden::empty_library();
        for expert in experts {
            library.add(expert, Put::New).unwrap();
        }
        phatgoose(&golden::base(), &library, &data, &how, &mut NoProgress).unwrap();
        library.artifact(&golden::name("phatgoose"), None).unwrap()
    };
    let together = derive(&experts);
    for expert in &experts {
        let name = &expert.card.name;
        let alone = &derive(std::slice::from_ref(expert))[name];
        let vectors = &together[name].vectors;
        assert!(vectors.keys().eq(expert.loras.keys()));
        for (site, vector) in vectors {
            let apart = golden::apart(vector, &alone.vectors[site]);
            assert!(apart < 1e-4, "{name} at {site}: {apart} apart");
        }
    }
}
