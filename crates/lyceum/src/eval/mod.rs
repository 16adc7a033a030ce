//! Evaluation: generated text by ROUGE-L, multiple choice by log-likelihood, and where tokens go.
//!
//! Every number is a mean over examples with its standard error; every example's own score is
//! kept, so that a reader can recompute any of them.

mod choice;
pub mod rouge;
mod routing;
pub mod text;

use serde::{Deserialize, Serialize};

pub use choice::{Answer, choose};
pub use routing::RoutingProbe;

use crate::data::Example;
use crate::error::Result;
use crate::model::Model;
use crate::name::Name;
use crate::train::Watch;

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
}

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
    let max_new = limits.max_new.min(positions / 2).max(1);
    let longest = limits.max_input.min(positions - max_new);
    let mut all = Vec::with_capacity(examples.len());
    for batch in examples.chunks(limits.batch.max(1)) {
        let prompts: Vec<Vec<u32>> = batch
            .iter()
            .map(|e| tokenizer.prompt(e, longest))
            .collect::<Result<_>>()?;
        let tasks: Vec<Name> = batch.iter().map(|e| e.task.clone()).collect();
        let news = model.generate(&prompts, &tasks, max_new, |_, _| ())?;
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
            });
        }
        let mean = all.iter().map(|p| p.score).sum::<f64>() / all.len() as f64;
        watch.step(all.len(), examples.len(), mean, tokens);
    }
    Ok(all)
}
