//! Evaluation: generated text by ROUGE-L, multiple choice by log-likelihood, and where tokens go.
//!
//! Every number is a mean over examples with its standard error; every example's own score is
//! kept, so that a reader can recompute any of them.

mod choice;
pub mod rouge;
mod routing;
pub mod text;

use serde::{Deserialize, Serialize};

pub use choice::{ACCURACIES, Accuracy, Answer, answer_rows, chance, choose};
pub use routing::RoutingProbe;

use crate::data::{Example, Question, Tokenizer, Tokens};
use crate::error::{Error, Result};
use crate::figure::{Cut, Row, Subject};
use crate::mix::Probe;
use crate::model::{Batch, Decoding, Model};
use crate::name::Name;
use crate::train::Watch;

/// Batches between two words about how far it is: one that ends leaves room for the next.
const PROGRESS: usize = 4;

/// How text is generated and batched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most new tokens per example.
    pub max_new: usize,
    /// Longest input in tokens; the left end of longer ones is cut off.
    pub max_input: usize,
    /// Examples decoded together.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_new: 128,
            max_input: 1024,
            batch: 32,
        }
    }
}

impl Limits {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first value out of range.
    pub fn check(&self) -> Result<()> {
        let values = [
            ("max_new", self.max_new),
            ("max_input", self.max_input),
            ("batch", self.batch),
        ];
        match values.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::invalid(format!("{name} must be at least 1"))),
            None => Ok(()),
        }
    }

    /// What a base of so many positions has room for: new tokens take at most half of them, and
    /// inputs what is left.
    #[must_use]
    pub fn within(&self, positions: usize) -> Limits {
        let max_new = self.max_new.min(positions / 2).max(1);
        Limits {
            max_new,
            max_input: self.max_input.min(positions.saturating_sub(max_new)),
            batch: self.batch,
        }
    }

    /// What generating `predictions` over a base of so many positions left out.
    pub fn cut(&self, positions: usize, predictions: &[Prediction]) -> Cut {
        let within = self.within(positions);
        Cut {
            what: "rouge-l".into(),
            rows: predictions.len(),
            cut: predictions.iter().filter(|p| p.cut).count(),
            max_input: within.max_input,
            max_new: within.max_new,
            max_new_asked: self.max_new,
        }
    }
}

/// What a model wrote for one example, and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The example's task.
    pub task: Name,
    /// Its prompt.
    pub source: String,
    /// Accepted answers.
    pub references: Vec<String>,
    /// What the model wrote, cleaned as the reference cleans it.
    pub text: String,
    /// ROUGE-L, 0 to 100.
    pub score: f64,
    /// Whether the prompt was too long and lost its left end.
    pub cut: bool,
}

/// ROUGE-L by task, in the order of their names, then `mean` over all examples.
pub fn prediction_rows(subject: &Subject, predictions: &[Prediction]) -> Vec<Row> {
    let tasks: std::collections::BTreeSet<&Name> = predictions.iter().map(|p| &p.task).collect();
    let scores = |task: Option<&Name>| -> Vec<f64> {
        let own = predictions
            .iter()
            .filter(|p| task.is_none_or(|task| p.task == *task));
        own.map(|p| p.score).collect()
    };
    let by_task = tasks
        .into_iter()
        .map(|t| subject.row(t.as_str(), "rouge-l", &scores(Some(t))));
    by_task
        .chain([subject.row("mean", "rouge-l", &scores(None))])
        .collect()
}

/// Whether something of `len` tokens, at most `longest` being kept, has more; `longer` says how many
/// are kept of it at most so many.
fn cut(len: usize, longest: usize, longer: impl Fn(usize) -> Result<usize>) -> Result<bool> {
    Ok(len >= longest && longer(longest.saturating_add(1))? > len)
}

/// What computing the losses of `examples` leaves out of prompt and answer beyond `max_input`
/// tokens.
///
/// # Errors
/// When an example cannot be tokenised.
pub fn losses_cut(tokenizer: &Tokenizer, examples: &[Example], max_input: usize) -> Result<Cut> {
    let len = |example: &Example, n: usize| Ok(tokenizer.training(example, n)?.ids.len());
    let mut found = Cut {
        what: "loss".into(),
        rows: examples.len(),
        max_input,
        ..Cut::default()
    };
    for example in examples {
        let short = len(example, max_input)?;
        found.cut += usize::from(cut(short, max_input, |n| len(example, n))?);
    }
    Ok(found)
}

/// What answering `questions`, called `what`, leaves out beyond `longest` tokens of question and
/// option.
///
/// # Errors
/// When a question cannot be tokenised.
pub fn questions_cut(
    tokenizer: &Tokenizer,
    what: &str,
    questions: &[Question],
    longest: usize,
) -> Result<Cut> {
    let mut found = Cut {
        what: what.into(),
        rows: questions.len(),
        max_input: longest,
        ..Cut::default()
    };
    for question in questions {
        let mut any = false;
        for choice in &question.choices {
            // A token has a byte at least.
            if question.query.len() + choice.len() + SPARE < longest {
                continue;
            }
            let text = format!("{} {choice}", question.query);
            let len = |n: usize| Ok(tokenizer.text(&text, n)?.len());
            any |= cut(len(longest)?, longest, len)?;
        }
        found.cut += usize::from(any);
    }
    Ok(found)
}

/// More tokens than a tokenizer puts before a text of its own accord.
const SPARE: usize = 16;

/// Greedy generation on `examples`, scored by ROUGE-L against their references.
///
/// # Errors
/// When a prompt cannot be tokenised or the router cannot decide.
pub fn rouge_l(
    model: &Model,
    examples: &[Example],
    limits: &Limits,
    watch: &mut dyn Watch,
) -> Result<Vec<Prediction>> {
    let tokenizer = &model.base().tokenizer;
    let positions = model.base().decoder.config().max_position_embeddings;
    limits.check()?;
    let limits = limits.within(positions);
    let longest = limits.max_input;
    let mut all = Vec::with_capacity(examples.len());
    let how = Decoding {
        max_new: limits.max_new,
        live: limits.batch,
    };
    for batch in examples.chunks(how.live * PROGRESS) {
        let prompts: Vec<Vec<u32>> = batch
            .iter()
            .map(|e| tokenizer.prompt(e, longest))
            .collect::<Result<_>>()?;
        let tasks: Vec<Name> = batch.iter().map(|e| e.task.clone()).collect();
        let news = model.generate(&prompts, &tasks, &how, |_, _| ())?;
        let mut tokens = 0;
        for ((example, prompt), new) in batch.iter().zip(&prompts).zip(&news) {
            tokens += prompt.len() + new.len();
            let whole = [prompt.as_slice(), new].concat();
            let sequence = text::clean(&tokenizer.decode(&whole)?);
            let tail = text::clean(&tokenizer.decode(new)?);
            let text = text::generated(&sequence, &example.source, &tail);
            let score = rouge::rouge_l(&text, &example.references);
            all.push(Prediction {
                task: example.task.clone(),
                source: example.source.clone(),
                references: example.references.clone(),
                text,
                score,
                cut: cut(prompt.len(), longest, |n| {
                    Ok(tokenizer.prompt(example, n)?.len())
                })?,
            });
        }
        let mean = all.iter().map(|p| p.score).sum::<f64>() / all.len() as f64;
        watch.step(all.len(), examples.len(), mean, tokens);
    }
    Ok(all)
}

/// The mean cross-entropy over its target tokens of each example, nats; `probe` sees the routing.
///
/// # Errors
/// When an example cannot be tokenised or the router cannot decide.
pub fn mean_losses(
    model: &Model,
    examples: &[Example],
    max_input: usize,
    probe: Option<&dyn Probe>,
) -> Result<Vec<f64>> {
    let mut means = Vec::with_capacity(examples.len());
    for some in examples.chunks(16) {
        let tokens: Vec<Tokens> = some
            .iter()
            .map(|e| model.base().tokenizer.training(e, max_input))
            .collect::<Result<_>>()?;
        let batch = Batch::new(tokens.iter().zip(some.iter().map(|e| e.task.clone())));
        let losses = model.losses(&batch, probe)?.to_vec1::<f32>()?;
        let mut sums = vec![(0.0, 0.0); some.len()];
        for (owner, loss) in batch.owners.iter().zip(losses) {
            sums[*owner].0 += f64::from(loss);
            sums[*owner].1 += 1.0;
        }
        means.extend(
            sums.into_iter()
                .map(|(sum, n): (f64, f64)| sum / n.max(1.0)),
        );
    }
    Ok(means)
}
