//! Multiple choice by log-likelihood, as lm-eval counts it.
//!
//! `acc`: largest summed log-probability; `acc_norm`: divided by the option's characters;
//! `acc_bytes`: by its bytes; `acc_tok`: by its tokens. A question's shared beginning is computed
//! once.

use serde::{Deserialize, Serialize};

use super::batches::{Scored, batches};
use crate::data::{Question, Tokens};
use crate::error::{Context, Error, Result};
use crate::metrics::{Estimate, Metric, RunKey};
use crate::model::Model;
use crate::progress::Progress;

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

    /// Accuracy with log-likelihoods normalised by the option's length in characters.
    pub fn acc_norm(&self) -> f64 {
        self.best(|i| self.log_probs[i] / self.characters[i].max(1) as f64)
    }

    /// Accuracy with log-likelihoods normalised by the option's length in UTF-8 bytes.
    pub fn acc_bytes(&self) -> f64 {
        self.best(|i| self.log_probs[i] / self.bytes[i].max(1) as f64)
    }

    /// Accuracy with log-likelihoods normalised by the option's length in tokens.
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

/// A model's answers to the questions of an evaluation.
///
/// ```
/// use std::sync::Arc;
/// use lyceum::prelude::*;
/// use lyceum::progress::NoProgress;
///
/// let model = Model::new(Arc::new(lyceum::assets::base(Precision::F32)?));
/// let questions = &lyceum::assets::arc_easy()?[..4];
/// let answers = eval::multiple_choice(&model, questions, 16, &mut NoProgress)?;
/// println!("acc {}, acc_norm {}", answers.acc(), answers.acc_norm());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Answers(Vec<Answer>);

impl From<Vec<Answer>> for Answers {
    fn from(rows: Vec<Answer>) -> Self {
        Answers(rows)
    }
}

impl Answers {
    /// The rows, in the order of the questions.
    pub fn rows(&self) -> &[Answer] {
        &self.0
    }

    /// The rows themselves.
    pub fn into_rows(self) -> Vec<Answer> {
        self.0
    }

    /// Accuracy by summed log-probability, 0 to 1.
    pub fn acc(&self) -> Estimate {
        self.accuracy(Answer::acc)
    }

    /// Accuracy by log-probability per character, 0 to 1.
    pub fn acc_norm(&self) -> Estimate {
        self.accuracy(Answer::acc_norm)
    }

    /// Accuracy by log-probability per byte, 0 to 1.
    pub fn acc_bytes(&self) -> Estimate {
        self.accuracy(Answer::acc_bytes)
    }

    /// Accuracy by log-probability per token, 0 to 1.
    pub fn acc_tok(&self) -> Estimate {
        self.accuracy(Answer::acc_tok)
    }

    /// Mean of [`Answers::acc`], 0 to 1.
    pub fn mean(&self) -> f64 {
        self.acc().mean
    }

    /// Standard error of [`Answers::mean`].
    pub fn stderr(&self) -> f64 {
        self.acc().stderr
    }

    fn accuracy(&self, score: fn(&Answer) -> f64) -> Estimate {
        let scores: Vec<f64> = self.0.iter().map(score).collect();
        Estimate::of(&scores)
    }

    /// The accuracy of a blind choice: the mean of one over the number of options.
    pub fn chance(&self) -> f64 {
        let blind = |answer: &Answer| 1.0 / answer.log_probs.len().max(1) as f64;
        self.0.iter().map(blind).sum::<f64>() / self.0.len().max(1) as f64
    }

    /// The accuracies of `subject` on the questions called `task`.
    pub fn figures(&self, subject: &RunKey, task: &str) -> Vec<Metric> {
        let row = |(metric, score): Accuracy| {
            let values: Vec<f64> = self.0.iter().map(score).collect();
            subject.metric(task, metric, &values)
        };
        ACCURACIES.map(row).into()
    }
}

/// The name of an option in errors: its question's number and its own, both from 1, and its text.
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

/// Answers `questions`, `batch_size` at a time, by the log-likelihood of their options.
///
/// # Errors
/// When an option has no token of its own, more than the base has positions, or a log-probability
/// that is not finite (the error names the question by its number, from 1, and the option), or the
/// router cannot decide; [`Error::Stopped`] when `progress` stops the run before the last question,
/// and then nothing is kept.
pub fn multiple_choice(
    model: &Model,
    questions: &[Question],
    batch_size: usize,
    progress: &mut dyn Progress,
) -> Result<Answers> {
    let longest = model.base().decoder.config().max_position_embeddings;
    let tokenizer = &model.base().tokenizer;
    let options = |number: usize, question: &Question| {
        let option = |(j, choice): (usize, &String)| {
            let tokens = tokenizer.continuation(&question.query, &format!(" {choice}"), longest);
            tokens.context(|| named(number, j, question))
        };
        question.choices.iter().enumerate().map(option).collect()
    };
    let rows = batches(questions, batch_size, progress, |from, some| {
        let numbered = || some.iter().enumerate().map(|(i, q)| (from + i, q));
        let groups: Vec<Vec<Tokens>> = numbered()
            .map(|(number, question)| options(number, question))
            .collect::<Result<_>>()?;
        let borrowed: Vec<&[Tokens]> = groups.iter().map(Vec::as_slice).collect();
        let scores = model.score(&borrowed, &[])?;
        let all = numbered().zip(groups.iter().zip(scores));
        all.map(|((number, question), (group, log_probs))| {
            if let Some(j) = log_probs.iter().position(|lp: &f64| !lp.is_finite()) {
                let why = "its log-probability is not finite; the model's outputs are not numbers";
                return Err(Error::invalid(why)).context(|| named(number, j, question));
            }
            let row = Answer {
                log_probs,
                tokens: group.iter().map(|t| t.ids.len() - t.from).collect(),
                characters: question.choices.iter().map(|c| c.chars().count()).collect(),
                bytes: question.choices.iter().map(String::len).collect(),
                gold: question.gold,
            };
            Ok(Scored {
                value: row.acc(),
                row,
                tokens: group.iter().map(|t| t.ids.len()).sum(),
            })
        })
        .collect()
    })?;
    Ok(rows.into())
}
