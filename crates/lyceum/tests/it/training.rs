//! Training: many experts in one pass are each what training them alone gives, and what is saved
//! and opened again computes the same bits.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum::Name;
use lyceum::backbone::{Base, Precision};
use lyceum::data::{Dataset, Split};
use lyceum::expert::Expert;
use lyceum::library::Library;
use lyceum::lora::LoraConfig;
use lyceum::mix::{Mixing, SeqLens};
use lyceum::model::{Model, SaveConfig};
use lyceum::progress::NoProgress;
use lyceum::route::Router;
use lyceum::train::{Job, TrainConfig, Trainer, experts};
use lyceum::transform::{Phatgoose, arrow, phatgoose};

use crate::tiny;

fn base(dir: &tempfile::TempDir) -> Arc<Base> {
    let path = dir.path().join("base");
    tiny::write_base(&path, 1);
    Arc::new(Base::open(&path, Precision::F32).unwrap())
}

fn data(tasks: usize) -> Dataset {
    Dataset::from_jsonl(tiny::rows(tasks).as_bytes(), "rows").unwrap()
}

fn how() -> TrainConfig {
    TrainConfig::default().batch(3).epochs(2)
}

fn jobs(data: &Dataset) -> Vec<Job> {
    let job = |task: Name| {
        let tasks = vec![task.clone()];
        let examples = data.select(&tasks, Split::Train).unwrap();
        Job::new(task, tasks, examples)
    };
    data.tasks().into_iter().map(job).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest distance of two tensors' values, relative to the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (values(a), values(b));
    let size = a.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    a.iter()
        .zip(&b)
        .fold(0f32, |m, (x, y)| m.max((x - y).abs()))
        / size
}

#[test]
fn losses_in_bf16_are_within_a_hundredth() {
    let data = crate::shipped::tasks();
    let jobs: Vec<Job> = jobs(&data).into_iter().step_by(3).collect();
    let how = TrainConfig::default().steps(4).max_input(128);
    let [exact, rounded] = [Precision::F32, Precision::Bf16].map(|precision| {
        let base = Arc::new(crate::shipped::base(precision));
        experts(&base, &jobs, &LoraConfig::default(), &how, &mut NoProgress).unwrap()
    });
    for ((expert, exact), (_, rounded)) in exact.iter().zip(&rounded) {
        assert_ne!(exact, rounded);
        for (x, y) in exact.iter().zip(rounded) {
            let name = &expert.card.name;
            assert!((x - y).abs() < 0.01 * x, "{name}: {exact:?} {rounded:?}");
        }
    }
}

#[test]
fn recomputing_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(2));
    let lora = LoraConfig::default().targets(["q_proj", "v_proj", "out_proj", "c_fc", "c_proj"]);
    let [kept, again] = [false, true].map(|recompute| {
        let how = how().recompute(recompute);
        experts(&base, &jobs(&data), &lora, &how, &mut NoProgress).unwrap()
    });
    for ((a, a_losses), (b, b_losses)) in kept.iter().zip(&again) {
        assert_eq!(a_losses, b_losses);
        assert_eq!(a.fingerprint(), b.fingerprint());
    }
}

#[test]
fn ten_experts_in_one_pass_equal_each_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(10));
    let train =
        |jobs: &[Job]| experts(&base, jobs, &LoraConfig::default(), &how(), &mut NoProgress);
    let jobs = jobs(&data);
    assert_eq!(jobs.len(), 10);
    let together: Vec<(Expert, Vec<f64>)> = train(&jobs).unwrap();
    for (job, (expert, losses)) in jobs.iter().zip(&together) {
        let alone = train(std::slice::from_ref(job)).unwrap();
        let (alone, alone_losses) = &alone[0];
        assert_eq!(losses.len(), 6);
        for (a, b) in losses.iter().zip(alone_losses) {
            assert!(
                (a - b).abs() < 1e-5,
                "{}: {losses:?} {alone_losses:?}",
                job.name
            );
        }
        assert!(expert.loras.len() == 6 && expert.loras.len() == alone.loras.len());
        for (site, lora) in &expert.loras {
            let other = &alone.loras[site];
            let worst = distance(&lora.a, &other.a).max(distance(&lora.b, &other.b));
            assert!(worst < 1e-4, "{} at {site}: {worst}", job.name);
            assert!(
                values(&lora.b).iter().any(|x| *x != 0.0),
                "nothing was learned"
            );
        }
    }
}

#[test]
fn an_added_expert_changes_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(3));
    let lora = LoraConfig::default();
    let all = jobs(&data);
    let first = experts(&base, &all[..2], &lora, &how(), &mut NoProgress).unwrap();
    let with_third = experts(&base, &all, &lora, &how(), &mut NoProgress).unwrap();
    for ((a, _), (b, _)) in first.iter().zip(&with_third) {
        for (site, lora) in &a.loras {
            assert!(distance(&lora.a, &b.loras[site].a) < 1e-4);
        }
    }
}

fn library(dir: &tempfile::TempDir, base: &Arc<Base>, data: &Dataset) -> Library {
    let path = dir.path().join("library");
    let library = Library::create(path.to_str().unwrap()).unwrap();
    let trainer = Trainer::new(base).config(how());
    trainer.each_task(data, &library, &mut NoProgress).unwrap();
    library
}

#[test]
fn saved_models_compute_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(3));
    let library = library(&dir, &base, &data);
    arrow(&library).unwrap();
    let gates = Phatgoose::default().steps(3);
    phatgoose(&base, &library, &data, &gates, &mut NoProgress).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| (i * 97) % 4096).collect();
    let seq_lens = SeqLens::new(&[15, 25]);
    for router in ["arrow", "phatgoose"] {
        let spec = Router::named(router).unwrap().top_k(2);
        let model = Model::routed(base.clone(), &library, &spec, Mixing::Outputs).unwrap();
        let want = values(&model.logits(&tokens, &seq_lens, &[]).unwrap());
        let out = dir.path().join(router);
        let path = dir.path().join("base");
        let config = SaveConfig::default().base_path(path.clone());
        Model::save(&out, &library, &base, spec, &config).unwrap();
        let again = Arc::new(Base::open(&path, Precision::F32).unwrap());
        let opened = Model::open(&out, again).unwrap();
        let got = values(&opened.logits(&tokens, &seq_lens, &[]).unwrap());
        assert!(
            want.iter()
                .zip(&got)
                .all(|(a, b)| a.to_bits() == b.to_bits()),
            "{router}"
        );
        let other = dir.path().join("other");
        tiny::write_base(&other, 2);
        let other = Arc::new(Base::open(&other, Precision::F32).unwrap());
        let error = Model::open(&out, other).unwrap_err().to_string();
        assert!(error.contains("was saved over the base"), "{error}");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_and_names_step_and_example() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(2));
    let how = how().lr(1e30).clip(1e30);
    let error = experts(
        &base,
        &jobs(&data),
        &LoraConfig::default(),
        &how,
        &mut NoProgress,
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("not finite"), "{text}");
    assert!(text.contains("step") && text.contains("example"), "{text}");
}

#[test]
fn batching_with_others_changes_nothing_beyond_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let (base, data) = (base(&dir), data(3));
    let library = library(&dir, &base, &data);
    arrow(&library).unwrap();
    let spec = Router::arrow().top_k(2);
    let model = Model::routed(base, &library, &spec, Mixing::Outputs).unwrap();
    let tokens: Vec<u32> = (0..60).map(|i| (i * 131 + 7) % 4096).collect();
    let lens = [1usize, 33, 26];
    let together = values(&model.logits(&tokens, &SeqLens::new(&lens), &[]).unwrap());
    let (mut start, mut alone) = (0, Vec::new());
    for len in lens {
        let part = &tokens[start..start + len];
        alone.extend(values(
            &model.logits(part, &SeqLens::new(&[len]), &[]).unwrap(),
        ));
        start += len;
    }
    assert!(
        together
            .iter()
            .zip(&alone)
            .all(|(a, b)| (a - b).abs() < 1e-4)
    );
}
