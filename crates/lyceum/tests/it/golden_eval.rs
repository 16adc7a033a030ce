//! Scores equal the references': generated text by ROUGE-L, multiple choice by log-likelihood.

use std::sync::Arc;

use lyceum::backbone::Base;
use lyceum::data::{Question, Split};
use lyceum::eval::{Answer, multiple_choice, rouge_l};
use lyceum::generate::GenerationConfig;
use lyceum::model::Model;
use lyceum::progress::NoProgress;
use serde_json::Value;

use crate::golden;
use crate::golden_routing::{METHODS, model};

#[test]
fn greedy_texts_and_rouge_of_every_method_equal_the_reference() {
    check_texts_and_rouge(&golden::base());
}

pub(crate) fn check_texts_and_rouge(base: &Arc<Base>) {
    let said = golden::json("routed.json");
    let examples = golden::tasks().split(Split::Test).unwrap();
    let library = golden::library();
    let config = GenerationConfig::default().max_new_tokens(8);
    for (method, ..) in METHODS {
        let got = rouge_l(
            &model(base, &library, method),
            &examples,
            &config,
            &mut NoProgress,
        )
        .unwrap();
        let got = got.rows();
        let want = said["predictions"][method].as_array().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.source, want["source"].as_str().unwrap());
            assert_eq!(got.references, [want["reference"].as_str().unwrap()]);
            let text = want["prediction"].as_str().unwrap();
            assert_eq!(got.text, text, "{method}: {:?}", got.source);
        }
        let mean = got.iter().map(|p| p.score).sum::<f64>() / got.len() as f64;
        let want = said["scores"][method]["rougeL_test"].as_f64().unwrap();
        assert!(
            (mean - want).abs() <= 1e-4,
            "{method}: {mean}, reference {want}"
        );
    }
}

/// The index of the largest value, the first of equals.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let larger = |best: (usize, f64), (i, x): (usize, f64)| if x > best.1 { (i, x) } else { best };
    scores.enumerate().fold((0, f64::NEG_INFINITY), larger).0
}

/// Scores those options that are too long again, with one token less before them: the reference
/// cut them to as many tokens as there are positions, lm-eval and Lyceum keep one more, which is
/// only predicted. Returns how many questions have such options.
fn as_the_reference_cuts(model: &Model, questions: &[Question], answers: &mut [Answer]) -> usize {
    let base = model.base();
    let positions = base.decoder.config().max_position_embeddings;
    let pair = |question: &Question, i: usize, max| {
        let option = format!(" {}", question.choices[i]);
        base.tokenizer
            .continuation(&question.query, &option, max)
            .unwrap()
    };
    let mut cut = 0;
    for (question, answer) in questions.iter().zip(answers) {
        let n = question.choices.len();
        let long = |i: &usize| pair(question, *i, positions).ids.len() > positions;
        let long: Vec<usize> = (0..n).filter(long).collect();
        for &i in &long {
            let pair = pair(question, i, positions - 1);
            answer.log_probs[i] = model.score(&[&[pair]], &[]).unwrap()[0][0];
        }
        cut += usize::from(!long.is_empty());
    }
    cut
}

#[test]
fn multiple_choice_equals_the_reference() {
    check_multiple_choice(&golden::base());
}

pub(crate) fn check_multiple_choice(base: &Arc<Base>) {
    let said = golden::json("multiple_choice.json");
    let said = said.as_array().unwrap();
    let questions: Vec<Question> = said
        .iter()
        .map(|q| Question {
            query: q["query"].as_str().unwrap().into(),
            choices: (q["options"].as_array().unwrap().iter())
                .map(|o| o["choice"].as_str().unwrap().into())
                .collect(),
            gold: q["gold"].as_u64().unwrap() as usize,
        })
        .collect();
    assert_eq!(questions.len(), 24);
    let model = Model::new(base.clone());
    let answers = multiple_choice(&model, &questions, 5, &mut NoProgress).unwrap();
    let mut answers = answers.into_rows();
    let cut = as_the_reference_cuts(&model, &questions, &mut answers);
    assert_eq!(cut, 8, "long questions");
    for (question, (answer, said)) in questions.iter().zip(answers.iter().zip(said)) {
        let options = said["options"].as_array().unwrap();
        let field = |name: &str| -> Vec<f64> {
            let values = options.iter().map(|o: &Value| o[name].as_f64().unwrap());
            values.collect()
        };
        let want = field("sum_logprob");
        for (got, want) in answer.log_probs.iter().zip(&want) {
            let apart = (got - want).abs();
            assert!(
                apart <= 1e-3,
                "{:?}: {got}, reference {want}",
                question.query
            );
        }
        let counts = [
            (&answer.tokens, "n_tokens"),
            (&answer.characters, "n_chars"),
            (&answer.bytes, "n_bytes"),
        ];
        for (got, name) in counts {
            let got: Vec<f64> = got.iter().map(|n| *n as f64).collect();
            assert_eq!(got, field(name), "{name} of {:?}", question.query);
            let per = |scores: &[f64]| best(scores.iter().zip(&got).map(|(s, n)| s / n));
            assert_eq!(per(&answer.log_probs), per(&want), "by {name}");
        }
        let right = |chosen: usize| f64::from(u8::from(chosen == question.gold));
        let per = |name: &str| best(want.iter().zip(field(name)).map(|(s, n)| s / n));
        assert_eq!(answer.acc(), right(best(want.iter().copied())));
        assert_eq!(answer.acc_norm(), right(per("n_chars")));
        assert_eq!(answer.acc_bytes(), right(per("n_bytes")));
        assert_eq!(answer.acc_tok(), right(per("n_tokens")));
    }
}
