//! Evaluation: generated text by ROUGE-L, multiple choice by log-likelihood, and where tokens go.
//!
//! Every number is a mean over examples with its standard error; every example's own score is
//! kept, so that a reader can recompute any of them.

mod batches;
mod choice;
pub mod rouge;
mod routing;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use batches::{Scored, batches};
pub use choice::{ACCURACIES, Accuracy, Answer, Answers, multiple_choice};
pub use routing::RoutingProbe;

use crate::data::{Example, Question, Tokenizer, Tokens};
use crate::error::Result;
use crate::generate::{self, GenerationConfig};
use crate::metrics::{Cut, Estimate, Metric, RunKey};
use crate::mix::Probe;
use crate::model::{Batch, Model};
use crate::name::Name;
use crate::progress::Progress;

/// Batches between two reports of progress: larger chunks keep continuous batching full.
const PROGRESS: usize = 4;

/// The text generated for one example, and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The example's task.
    pub task: Name,
    /// Its prompt.
    pub source: String,
    /// Accepted answers.
    pub references: Vec<String>,
    /// The generated text, cleaned as the reference implementation cleans it.
    pub text: String,
    /// ROUGE-L, 0 to 100.
    pub score: f64,
    /// The prompt was too long and lost its left end.
    pub cut: bool,
}

/// The texts generated for the rows of an evaluation, each with its ROUGE-L.
///
/// ```
/// use std::sync::Arc;
/// use lyceum::prelude::*;
/// use lyceum::progress::NoProgress;
///
/// let model = Model::new(Arc::new(lyceum::assets::base(Precision::F32)?));
/// let test = lyceum::assets::tasks()?.split(Split::Test)?;
/// let config = GenerationConfig::default().max_new_tokens(4);
/// let texts = eval::rouge_l(&model, &test[..2], &config, &mut NoProgress)?;
/// println!("ROUGE-L {}: {:?}", texts.rouge_l(), texts.rows()[0].text);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions(Vec<Prediction>);

impl From<Vec<Prediction>> for Predictions {
    fn from(rows: Vec<Prediction>) -> Self {
        Predictions(rows)
    }
}

impl Predictions {
    /// The rows, in the order of the examples.
    pub fn rows(&self) -> &[Prediction] {
        &self.0
    }

    /// The rows themselves.
    pub fn into_rows(self) -> Vec<Prediction> {
        self.0
    }

    /// ROUGE-L over all rows, 0 to 100.
    pub fn rouge_l(&self) -> Estimate {
        Estimate::of(&self.scores(None))
    }

    /// Mean ROUGE-L over all rows, 0 to 100.
    pub fn mean(&self) -> f64 {
        self.rouge_l().mean
    }

    /// Standard error of [`Predictions::mean`].
    pub fn stderr(&self) -> f64 {
        self.rouge_l().stderr
    }

    /// ROUGE-L by task, 0 to 100.
    pub fn by_task(&self) -> BTreeMap<Name, Estimate> {
        let tasks: BTreeSet<&Name> = self.0.iter().map(|p| &p.task).collect();
        let estimate = |task: &Name| (task.clone(), Estimate::of(&self.scores(Some(task))));
        tasks.into_iter().map(estimate).collect()
    }

    /// The scores of the rows of `task`, or of all.
    pub fn scores(&self, task: Option<&Name>) -> Vec<f64> {
        let own = |p: &&Prediction| task.is_none_or(|task| p.task == *task);
        self.0.iter().filter(own).map(|p| p.score).collect()
    }

    /// ROUGE-L of `subject` by task, in the order of their names, then `mean` over all rows.
    pub fn figures(&self, subject: &RunKey) -> Vec<Metric> {
        let tasks: BTreeSet<&Name> = self.0.iter().map(|p| &p.task).collect();
        let row = |task: &Name| subject.metric(task.as_str(), METRIC, &self.scores(Some(task)));
        let mean = subject.metric("mean", METRIC, &self.scores(None));
        tasks.into_iter().map(row).chain([mean]).collect()
    }

    /// The prompts that lost tokens, and the limits they were generated under, over a base of so
    /// many positions.
    pub fn cut(&self, config: &GenerationConfig, positions: usize) -> Cut {
        let within = config.within(positions);
        Cut {
            what: METRIC.into(),
            rows: self.0.len(),
            cut: self.0.iter().filter(|p| p.cut).count(),
            max_input: within.max_input_tokens,
            max_new: within.max_new_tokens,
            max_new_asked: config.max_new_tokens,
        }
    }
}

/// The name of the metric of [`rouge_l`] in reports.
const METRIC: &str = "rouge-l";

/// Returns `true` if something of which at most `longest` tokens are kept, `len` here, has more;
/// `longer` returns how many are kept under another limit.
fn cut(len: usize, longest: usize, longer: impl Fn(usize) -> Result<usize>) -> Result<bool> {
    Ok(len >= longest && longer(longest.saturating_add(1))? > len)
}

/// Counts the `examples` whose prompt and answer are truncated to `max_input` tokens when their
/// loss is computed.
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

/// Counts the `questions` of the set named `what` that have an option truncated to `longest` tokens
/// of question and option.
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
/// When a prompt cannot be tokenised or the router cannot decide;
/// [`Error::Stopped`](crate::Error::Stopped) when `progress` stops the run before the last example,
/// and then nothing is kept.
pub fn rouge_l(
    model: &Model,
    examples: &[Example],
    config: &GenerationConfig,
    progress: &mut dyn Progress,
) -> Result<Predictions> {
    let tokenizer = &model.base().tokenizer;
    let positions = model.base().decoder.config().max_position_embeddings;
    config.check()?;
    let config = config.within(positions);
    let longest = config.max_input_tokens;
    let prediction = |example: &Example, prompt: &[u32], new: &[u32]| {
        let sequence = text::clean(&tokenizer.decode(&[prompt, new].concat())?);
        let tail = text::clean(&tokenizer.decode(new)?);
        let text = text::generated(&sequence, &example.source, &tail);
        let score = rouge::rouge_l(&text, &example.references);
        let row = Prediction {
            task: example.task.clone(),
            source: example.source.clone(),
            references: example.references.clone(),
            text,
            score,
            cut: cut(prompt.len(), longest, |n| {
                Ok(tokenizer.prompt(example, n)?.len())
            })?,
        };
        Ok(Scored {
            row,
            value: score,
            tokens: prompt.len() + new.len(),
        })
    };
    let rows = batches(
        examples,
        config.batch_size * PROGRESS,
        progress,
        |_, some| {
            let prompts: Vec<Vec<u32>> = some
                .iter()
                .map(|e| tokenizer.prompt(e, longest))
                .collect::<Result<_>>()?;
            let tasks: Vec<Name> = some.iter().map(|e| e.task.clone()).collect();
            let news = model.generate_tokens(&prompts, &tasks, &config, generate::ignore)?;
            let all = some.iter().zip(prompts.iter().zip(&news));
            all.map(|(example, (prompt, new))| prediction(example, prompt, new))
                .collect()
        },
    )?;
    Ok(rows.into())
}

/// Examples whose losses are computed at once.
const LOSSES: usize = 16;

/// Returns the mean cross-entropy of each example over its target tokens, in nats; `probe` sees the
/// routing. `progress` receives the mean over the examples so far.
///
/// ```
/// use std::sync::Arc;
/// use lyceum::prelude::*;
///
/// let model = Model::new(Arc::new(lyceum::assets::base(Precision::F32)?));
/// let test = lyceum::assets::tasks()?.split(Split::Test)?;
/// let losses = eval::mean_losses(&model, &test[..2], 128, None, &mut NoProgress)?;
/// assert!(losses.iter().all(|loss| loss.is_finite()));
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When an example cannot be tokenised or the router cannot decide;
/// [`Error::Stopped`](crate::Error::Stopped) when `progress` stops the run before the last example,
/// and then nothing is kept.
pub fn mean_losses(
    model: &Model,
    examples: &[Example],
    max_input: usize,
    probe: Option<&dyn Probe>,
    progress: &mut dyn Progress,
) -> Result<Vec<f64>> {
    batches(examples, LOSSES, progress, |_, some| {
        let tokens: Vec<Tokens> = some
            .iter()
            .map(|e| model.base().tokenizer.training(e, max_input))
            .collect::<Result<_>>()?;
        let batch = Batch::new(tokens.iter().zip(some.iter().map(|e| e.task.clone())));
        let losses = model.losses(&batch, probe)?.to_vec1::<f32>()?;
        let (mut sums, mut counts) = (vec![0.0; some.len()], vec![0.0_f64; some.len()]);
        for (owner, loss) in batch.target_seqs.iter().zip(losses) {
            sums[*owner] += f64::from(loss);
            counts[*owner] += 1.0;
        }
        let means = sums.iter().zip(counts).map(|(sum, n)| sum / n.max(1.0));
        let scored = means.zip(&tokens).map(|(mean, tokens)| Scored {
            row: mean,
            value: mean,
            tokens: tokens.ids.len(),
        });
        Ok(scored.collect())
    })
}
