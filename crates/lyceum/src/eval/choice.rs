//! Multiple choice by log-likelihood, as lm-eval counts it.
//!
//! `acc`: largest summed log-probability; `acc_norm`: divided by the option's characters;
//! `acc_bytes`: by its bytes; `acc_tok`: by its tokens. A question's shared beginning is computed
//! once.

use serde::{Deserialize, Serialize};

use crate::data::{Question, Tokens};
use crate::error::{Context, Error, Result};
use crate::figure::{Row, Subject};
use crate::model::Model;
use crate::train::Watch;

/// A model's answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Summed log-probability of each option.
    pub log_probs: Vec<f64>,
    /// Tokens of each option.
    pub tokens: Vec<usize>,
    /// Characters of each option.
    pub characters: Vec<usize>,
    /// Bytes of each option in UTF-8.
    pub bytes: Vec<usize>,
    /// The right option.
    pub gold: usize,
}

impl Answer {
    fn best(&self, score: impl Fn(usize) -> f64) -> f64 {
        let better = |best, i| if score(i) > score(best) { i } else { best };
        f64::from(u8::from(
            (1..self.log_probs.len()).fold(0, better) == self.gold,
        ))
    }

    /// 1 if the option of largest log-probability is right, else 0.
    pub fn acc(&self) -> f64 {
        self.best(|i| self.log_probs[i])
    }

    /// The same, per character of the option.
    pub fn acc_norm(&self) -> f64 {
        self.best(|i| self.log_probs[i] / self.characters[i].max(1) as f64)
    }

    /// The same, per byte of the option in UTF-8.
    pub fn acc_bytes(&self) -> f64 {
        self.best(|i| self.log_probs[i] / self.bytes[i].max(1) as f64)
    }

    /// The same, per token of the option.
    pub fn acc_tok(&self) -> f64 {
        self.best(|i| self.log_probs[i] / self.tokens[i].max(1) as f64)
    }
}

/// A metric and what it makes of an answer.
pub type Accuracy = (&'static str, fn(&Answer) -> f64);

/// The accuracies reports show.
pub const ACCURACIES: [Accuracy; 3] = [
    ("acc", Answer::acc),
    ("acc_norm", Answer::acc_norm),
    ("acc_tok", Answer::acc_tok),
];

/// The accuracy of a blind choice: the mean of one over the number of options.
pub fn chance(answers: &[Answer]) -> f64 {
    let blind = answers
        .iter()
        .map(|a| 1.0 / a.log_probs.len().max(1) as f64);
    blind.sum::<f64>() / answers.len().max(1) as f64
}

/// The accuracies that `answers` to the questions called `task` make.
pub fn answer_rows(subject: &Subject, task: &str, answers: &[Answer]) -> Vec<Row> {
    let row = |(metric, score): Accuracy| {
        let values: Vec<f64> = answers.iter().map(score).collect();
        subject.row(task, metric, &values)
    };
    ACCURACIES.map(row).into()
}

/// What an error calls an option: its question's number and its own, both from 1, and its text.
fn named(question: usize, option: usize, asked: &Question) -> String {
    let text = asked.choices.get(option).map_or("", String::as_str);
    let end = text.char_indices().nth(60).map_or(text.len(), |(at, _)| at);
    let more = if end < text.len() { "…" } else { "" };
    let (question, option) = (question + 1, option + 1);
    format!(
        "question {question}, option {option} (`{}{more}`)",
        &text[..end]
    )
}

/// Answers `questions`, `batch` at a time.
///
/// # Errors
/// When an option has no token of its own, more than the base has positions, or a log-probability
/// that is not finite (the error names the question by its number, from 1, and the option), or the
/// router cannot decide.
pub fn choose(
    model: &Model,
    questions: &[Question],
    batch: usize,
    watch: &mut dyn Watch,
) -> Result<Vec<Answer>> {
    let longest = model.base().decoder.config().max_position_embeddings;
    let mut answers = Vec::with_capacity(questions.len());
    let tokenizer = &model.base().tokenizer;
    for some in questions.chunks(batch.max(1)) {
        let done = answers.len();
        let groups: Vec<Vec<Tokens>> = some
            .iter()
            .enumerate()
            .map(|(i, question)| {
                let option = |(j, choice): (usize, &String)| {
                    let tokens =
                        tokenizer.continuation(&question.query, &format!(" {choice}"), longest);
                    tokens.context(|| named(done + i, j, question))
                };
                question.choices.iter().enumerate().map(option).collect()
            })
            .collect::<Result<_>>()?;
        let borrowed: Vec<&[Tokens]> = groups.iter().map(Vec::as_slice).collect();
        let scores = model.score(&borrowed, &[])?;
        let mut tokens = 0;
        for (i, ((question, group), log_probs)) in some.iter().zip(&groups).zip(scores).enumerate()
        {
            if let Some(j) = log_probs.iter().position(|lp: &f64| !lp.is_finite()) {
                let why = "its log-probability is not finite; the model's outputs are not numbers";
                return Err(Error::invalid(why)).context(|| named(done + i, j, question));
            }
            tokens += group.iter().map(|t| t.ids.len()).sum::<usize>();
            answers.push(Answer {
                log_probs,
                tokens: group.iter().map(|t| t.ids.len() - t.from).collect(),
                characters: question.choices.iter().map(|c| c.chars().count()).collect(),
                bytes: question.choices.iter().map(String::len).collect(),
                gold: question.gold,
            });
        }
        let mean = answers.iter().map(Answer::acc).sum::<f64>() / answers.len() as f64;
        watch.step(answers.len(), questions.len(), mean, tokens);
    }
    Ok(answers)
}
