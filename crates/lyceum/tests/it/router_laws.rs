//! Laws that every row of `ROUTERS` obeys.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::Tensor;
use lyceum::expert::Expert;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::mix::{Gates, Mixing, Pass, Probe};
use lyceum::model::{Batch, Model};
use lyceum::name::Site;
use lyceum::route::ROUTERS;

use crate::golden;
use crate::made::{self, Text};

const TASKS: [&str; 3] = ["t1", "t2", "t3"];
const MIXINGS: [Mixing; 2] = [Mixing::Outputs, Mixing::Factors];

/// Every router by name, with every expert and with two.
fn routers() -> impl Iterator<Item = (&'static str, Option<usize>)> {
    let names = ROUTERS.iter().map(|about| about.name);
    names.flat_map(|name| [(name, None), (name, Some(2))])
}

/// Experts drawn by 1, 2 and 3 under these names.
fn experts(names: [&str; 3]) -> Vec<Expert> {
    let made = names.iter().zip(1..);
    made.map(|(name, seed)| made::expert(name, seed, LoraConfig::default()))
        .collect()
}

/// Remembers the gates of every site, `[t, e]`.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<Site, Vec<Vec<f32>>>>);

impl Probe for Seen {
    fn see(&self, site: &Site, gates: &Gates, pass: &Pass<'_>) -> lyceum::Result<()> {
        let rows = gates.rows(pass.seq_lens.tokens(), TASKS.len());
        self.0.lock().unwrap().insert(site.clone(), rows);
        Ok(())
    }
}

fn seen(model: &Model, text: &Text) -> BTreeMap<Site, Vec<Vec<f32>>> {
    let seen = Seen::default();
    let whole = |ids: &Vec<u32>| lyceum::data::Tokens {
        ids: ids.clone(),
        from: 1,
    };
    let rows: Vec<_> = text.rows.iter().map(whole).collect();
    let batch = Batch::new(rows.iter().zip(text.tasks.iter().cloned()));
    model.losses(&batch, Some(&seen)).unwrap();
    seen.0.into_inner().unwrap()
}

#[test]
fn gates_are_finite_and_sum_to_one() {
    let library = made::library(&experts(["a", "b", "c"]));
    let text = Text::new(&TASKS);
    for (router, top_k) in routers() {
        let model = made::routed(&library, router, top_k, Mixing::Outputs);
        let sites = seen(&model, &text);
        assert_eq!(sites.len(), if router == "base" { 0 } else { 12 });
        for (site, rows) in sites {
            assert_eq!(rows.len(), text.tokens().len());
            for row in rows {
                let sum: f32 = row.iter().sum();
                assert!(
                    row.iter().all(|g| g.is_finite() && *g >= 0.0),
                    "{router}: {row:?}"
                );
                assert!((sum - 1.0).abs() < 1e-5, "{router} at {site}: {row:?}");
                let chosen = row.iter().filter(|g| **g > 0.0).count();
                let chooses = ["arrow", "phatgoose"].contains(&router);
                assert!(
                    !chooses || chosen <= top_k.unwrap_or(3),
                    "{router}: {row:?}"
                );
            }
        }
    }
}

#[test]
fn permuting_experts_permutes_gates_and_changes_no_logit() {
    let text = Text::new(&TASKS);
    let one = made::library(&experts(["a", "b", "c"]));
    // The expert drawn by 1 comes third now, the one by 2 first, the one by 3 second.
    let other = made::library(&experts(["c", "a", "b"]));
    for (router, top_k) in routers() {
        for mixing in MIXINGS {
            let pair = [&one, &other].map(|l| made::routed(l, router, top_k, mixing));
            let apart = golden::apart(&text.logits(&pair[0]), &text.logits(&pair[1]));
            assert!(apart < 1e-4, "{router}: logits are {apart} apart");
            let [one, other] = pair.map(|model| seen(&model, &text));
            for (site, rows) in &one {
                for (row, permuted) in rows.iter().zip(&other[site]) {
                    let back = [permuted[2], permuted[0], permuted[1]];
                    let near = row.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-4);
                    assert!(near, "{router} at {site}: {row:?} {permuted:?}");
                }
            }
        }
    }
}

#[test]
fn one_expert_with_weight_one_is_plain_lora() {
    let text = Text::new(&["t1", "t1"]);
    let expert = made::expert("a", 1, LoraConfig::default());
    let plain = text.logits(&Model::new(made::merged_base(&[(&expert, 1.0)])));
    let bare = text.logits(&Model::new(golden::base()));
    let library = made::library(std::slice::from_ref(&expert));
    assert!(
        golden::apart(&plain, &bare) > 0.1,
        "the expert changes nothing"
    );
    for about in ROUTERS {
        for mixing in MIXINGS {
            let model = made::routed(&library, about.name, Some(1), mixing);
            let want = if about.name == "base" { &bare } else { &plain };
            let apart = golden::apart(&text.logits(&model), want);
            assert!(apart < 2e-4, "{}: {apart} apart", about.name);
        }
    }
}

#[test]
fn zero_b_is_the_bare_base() {
    let text = Text::new(&TASKS);
    let zeroed = |expert: Expert| {
        let zero = |lora: Lora| Lora {
            b: lora.b.zeros_like().unwrap(),
            ..lora
        };
        let loras = expert
            .loras
            .into_iter()
            .map(|(site, lora)| (site, zero(lora)));
        Expert::new(expert.card, loras.collect()).unwrap()
    };
    let experts: Vec<Expert> = experts(["a", "b", "c"]).into_iter().map(zeroed).collect();
    let library = made::library(&experts);
    let bare = text.logits(&Model::new(golden::base()));
    for (router, top_k) in routers() {
        for mixing in MIXINGS {
            let model = made::routed(&library, router, top_k, mixing);
            assert_eq!(golden::apart(&text.logits(&model), &bare), 0.0, "{router}");
        }
    }
}

#[test]
fn batching_changes_nothing_beyond_rounding() {
    let text = Text::new(&TASKS);
    let library = made::library(&experts(["a", "b", "c"]));
    for (router, top_k) in routers() {
        for mixing in MIXINGS {
            let model = made::routed(&library, router, top_k, mixing);
            let together = text.logits(&model);
            let alone: Vec<Tensor> = (0..3).map(|i| text.alone(&model, i)).collect();
            let apart = golden::apart(&together, &Tensor::cat(&alone, 0).unwrap());
            assert!(apart < 1e-4, "{router}: {apart} apart");
        }
    }
}
