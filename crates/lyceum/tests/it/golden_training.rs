//! Gradients, training steps and PhatGOOSE steps equal MTTL's, given its start and its batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Tensor, Var};
use lyceum::Name;
use lyceum::backbone::Base;
use lyceum::data::{Example, Split, Tokens};
use lyceum::lora::{Lora, LoraConfig};
use lyceum::mix::{Bank, Mixing, Mixture};
use lyceum::model::Model;
use lyceum::name::Site;
use lyceum::progress::NoProgress;
use lyceum::route::Fixed;
use lyceum::train::{Job, TrainConfig, experts, gates};

use crate::golden;

#[test]
fn gradients_of_every_lora_tensor_equal_the_reference() {
    check_gradients(&golden::base());
}

pub(crate) fn check_gradients(base: &Arc<Base>) {
    let trace = golden::tensors("grad_trace.safetensors");
    let expert = golden::experts().pop().unwrap();
    assert_eq!(expert.card.name.as_str(), "who_has");
    let mut vars: BTreeMap<Site, (Var, Var)> = BTreeMap::new();
    let mut loras = BTreeMap::new();
    for (site, lora) in &expert.loras {
        let pair = [&lora.a, &lora.b].map(|t| Var::from_tensor(t).unwrap());
        let [a, b] = pair.clone().map(|v| v.as_tensor().clone());
        let scale = lora.scale;
        loras.insert(site.clone(), Lora { a, b, scale });
        let [a, b] = pair;
        vars.insert(site.clone(), (a, b));
    }
    let mixture = Mixture {
        bank: Arc::new(Bank::new([(expert.card.name.clone(), &loras)]).unwrap()),
        router: Arc::new(Fixed::new(&[1.0])),
        mixing: Mixing::Outputs,
    };
    let model = Model::with_mixture(base.clone(), mixture);
    let rows = golden::Rows::new(&trace, "");
    let tasks = vec![expert.card.name.clone(); rows.examples.len()];
    let losses = model.losses(&rows.batch(&tasks), None).unwrap();
    let loss = losses.mean_all().unwrap();
    let want = trace["loss"].to_vec1::<f32>().unwrap()[0];
    let got = loss.to_scalar::<f32>().unwrap();
    assert!((got - want).abs() <= 1e-5, "loss {got}, reference {want}");
    let gradients = loss.backward().unwrap();
    let mut checked = 0;
    for (site, (a, b)) in &vars {
        for (var, factor) in [(a, "lora_a"), (b, "lora_b")] {
            let got = gradients.get(var).unwrap().t().unwrap();
            let key = format!("grad.{site}.{factor}");
            let apart = golden::relative(&got, &trace[&key]);
            assert!(apart <= 1e-4, "{key} is {apart} apart");
            checked += 1;
        }
    }
    assert_eq!(
        checked,
        trace.keys().filter(|k| k.starts_with("grad.")).count()
    );
}

/// The training rows of `task`, and the recorded batches below `prefix` as indices into them.
/// Every recorded row must be one of ours, tokenised and masked alike.
fn recorded(
    trace: &BTreeMap<String, Tensor>,
    prefix: &str,
    task: &Name,
) -> (Vec<Example>, Vec<Vec<usize>>) {
    let data = golden::tasks();
    let examples = data
        .select(std::slice::from_ref(task), Split::Train)
        .unwrap();
    let tokenizer = &golden::base().tokenizer;
    let ours: Vec<Tokens> = examples
        .iter()
        .map(|e| tokenizer.training(e, 128).unwrap())
        .collect();
    let steps = (0..).take_while(|i| trace.contains_key(&format!("{prefix}batch.{i}.labels")));
    let order = steps.map(|i| {
        let rows = golden::Rows::new(trace, &format!("{prefix}batch.{i}."));
        let find = |row: &Tokens| ours.iter().position(|our| our == row).unwrap();
        rows.examples.iter().map(find).collect()
    });
    let order = order.collect();
    (examples, order)
}

fn losses_agree(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let apart = (got - want).abs();
        assert!(
            apart <= 1e-4,
            "{what}, step {step}: {got}, reference {want}"
        );
    }
}

#[test]
fn eighteen_training_steps_equal_the_reference() {
    check_training_steps(&golden::base());
}

pub(crate) fn check_training_steps(base: &Arc<Base>) {
    let trace = golden::tensors("train_trace.safetensors");
    let said = golden::json("train_trace.json");
    let task = golden::name("color_of");
    let (examples, order) = recorded(&trace, "", &task);
    assert_eq!(order.len(), 18);
    let lora = LoraConfig::default();
    let job = Job {
        init: Some(golden::adapters(&trace, "init.", 0.25)),
        order: Some(order),
        ..Job::new(task.clone(), vec![task], examples)
    };
    let how = TrainConfig::default().lr(1e-2).steps(18);
    let (expert, losses) = experts(base, &[job], &lora, &how, &mut NoProgress)
        .unwrap()
        .pop()
        .unwrap();
    losses_agree("color_of", &losses, &golden::floats(&said["losses"]));
    let want = golden::adapters(&trace, "final.", 0.25);
    assert!(expert.loras.keys().eq(want.keys()));
    for (site, lora) in &expert.loras {
        for (got, want) in [(&lora.a, &want[site].a), (&lora.b, &want[site].b)] {
            let apart = golden::relative(got, want);
            assert!(apart <= 1e-3, "{site}: final weights are {apart} apart");
        }
    }
}

#[test]
fn fifteen_phatgoose_steps_per_expert_equal_the_reference() {
    for (site, got, want) in phatgoose_gates(&golden::base()) {
        let apart = golden::apart(&got, &want);
        assert!(apart <= 1e-3, "{site}: gates are {apart} apart");
    }
}

/// Trains the recorded steps, whose losses must be the recorded ones. Returns the gates of every
/// expert and site, each beside the recorded one.
pub(crate) fn phatgoose_gates(base: &Arc<Base>) -> Vec<(String, Tensor, Tensor)> {
    let trace = golden::tensors("phatgoose_trace.safetensors");
    let said = golden::json("phatgoose_trace.json");
    let experts = golden::experts();
    let jobs: Vec<Job> = experts
        .iter()
        .map(|expert| {
            let task = expert.card.name.clone();
            let (examples, order) = recorded(&trace, &format!("{task}."), &task);
            assert_eq!(order.len(), 15);
            Job {
                order: Some(order),
                ..Job::new(task.clone(), vec![task], examples)
            }
        })
        .collect();
    let how = TrainConfig::default().lr(1e-2).steps(15);
    let trained = gates(base, &experts, &jobs, &how, &mut NoProgress).unwrap();
    assert_eq!(trained.len(), 4);
    let mut pairs = Vec::new();
    for (expert, (vectors, losses)) in experts.iter().zip(&trained) {
        let name = expert.card.name.as_str();
        losses_agree(name, losses, &golden::floats(&said["losses"][name]));
        assert_eq!(vectors.len(), 12);
        for (site, got) in vectors {
            let want = trace[&format!("{name}.gate.{site}")].clone();
            pairs.push((format!("{name} at {site}"), got.clone(), want));
        }
    }
    pairs
}
