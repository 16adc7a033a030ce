//! The training rows of many learners: tokenised, in their order, packed into micro-batches.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use super::fit::{Learner, Losses, MicroBatch};
use super::{Batches, Schedule, TrainConfig};
use crate::backbone::Base;
use crate::data::{Example, Tokens};
use crate::error::{Context, Error, Result};
use crate::lora::Lora;
use crate::mix::Mixture;
use crate::model::{Batch, losses};
use crate::name::{Name, Site};

/// Most tokens in one micro-batch; bounds memory.
const MICRO_BATCH_TOKENS: usize = 6144;

/// One expert to train.
///
/// ```
/// use lyceum::prelude::*;
/// use lyceum::train::Job;
///
/// let data = lyceum::assets::tasks()?;
/// let task = data.tasks()[0].clone();
/// let rows = data.select(std::slice::from_ref(&task), Split::Train)?;
/// let job = Job::new(task.clone(), vec![task], rows);
/// assert!(job.init.is_none() && !job.examples.is_empty());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Job {
    /// The expert's name; its data order is seeded by it.
    pub name: Name,
    /// The tasks it stands for.
    pub tasks: Vec<Name>,
    /// The training examples.
    pub examples: Vec<Example>,
    /// Provenance that the expert's card records.
    pub origin: serde_json::Value,
    /// Adapters to begin from; freshly drawn ones when absent.
    pub init: Option<BTreeMap<Site, Lora>>,
    /// The batches, as indices into `examples`, in this order and then again from the first; a
    /// seeded shuffle when absent.
    pub order: Option<Vec<Vec<usize>>>,
}

impl Job {
    /// An expert trained on `examples` from a fresh start, in a seeded order.
    pub fn new(name: Name, tasks: Vec<Name>, examples: Vec<Example>) -> Self {
        Job {
            name,
            tasks,
            examples,
            origin: serde_json::Value::Null,
            init: None,
            order: None,
        }
    }

    fn order(&self, config: &TrainConfig) -> Result<Batches> {
        let (n, name) = (self.examples.len(), &self.name);
        match &self.order {
            None => Ok(Batches::new(n, config.batch, config.seed, name.as_str())),
            Some(order) => Batches::given(order.clone(), n).context(|| format!("expert `{name}`")),
        }
    }
}

/// A micro-batch that holds, for each of its learners, the indices of its examples.
pub(super) type Dealt = MicroBatch<Vec<Vec<usize>>>;

/// Tokenised data and the order it comes in, for several learners at once.
pub(super) struct Feed {
    names: Vec<Name>,
    tokens: Vec<Vec<Tokens>>,
    order: Vec<Batches>,
    recompute: bool,
}

impl Feed {
    pub(super) fn new(base: &Base, jobs: &[Job], config: &TrainConfig) -> Result<Self> {
        let positions = base.decoder.config().max_position_embeddings;
        let longest = config.max_input.min(positions);
        let (mut names, mut tokens, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            if job.examples.is_empty() {
                return Err(Error::invalid(format!(
                    "expert `{}` has no example",
                    job.name
                )));
            }
            let rows = job
                .examples
                .iter()
                .map(|e| base.tokenizer.training(e, longest));
            tokens.push(rows.collect::<Result<Vec<_>>>()?);
            order.push(job.order(config)?);
            names.push(job.name.clone());
        }
        Ok(Feed {
            names,
            tokens,
            order,
            recompute: config.recompute,
        })
    }

    /// Learners of these variables, each for the examples at its place.
    pub(super) fn learners(
        &self,
        vars: impl Iterator<Item = Vec<Var>>,
        config: &TrainConfig,
    ) -> Vec<Learner> {
        let learner = |(vars, tokens): (Vec<Var>, &Vec<Tokens>)| {
            let total = config.total_steps(tokens.len());
            let schedule = Schedule::linear(config.lr, config.warmup, total);
            Learner::new(vars, schedule)
                .weight_decay(config.weight_decay)
                .clip(config.clip)
        };
        vars.zip(&self.tokens).map(learner).collect()
    }

    /// Passes over the first `batches` batches of `learner`: it saw them before.
    pub(super) fn skip(&mut self, learner: usize, batches: usize) {
        for _ in 0..batches {
            let _ = self.order[learner].next_batch();
        }
    }

    /// The next batches of the `active` learners, packed into micro-batches of bounded size.
    pub(super) fn deal(&mut self, active: &[usize]) -> Vec<Dealt> {
        let mut parts: Vec<Dealt> = Vec::new();
        let mut room = 0;
        for &i in active {
            let chosen = self.order[i].next_batch();
            let size: usize = chosen.iter().map(|&j| self.tokens[i][j].ids.len()).sum();
            if size > room || parts.is_empty() {
                parts.push(Dealt {
                    learners: Vec::new(),
                    rows: Vec::new(),
                });
                room = MICRO_BATCH_TOKENS;
            }
            room = room.saturating_sub(size);
            if let Some(part) = parts.last_mut() {
                part.learners.push(i);
                part.rows.push(chosen);
            }
        }
        parts
    }

    fn batch(&self, part: &Dealt) -> Batch {
        let one = |(&i, chosen): (&usize, &Vec<usize>)| {
            let name = self.names[i].clone();
            let rows = chosen.iter().map(move |&j| (i, j));
            rows.map(move |(i, j)| (&self.tokens[i][j], name.clone()))
                .collect::<Vec<_>>()
        };
        Batch::new(part.learners.iter().zip(&part.rows).flat_map(one))
    }

    /// The mean loss of each learner of `part`, `[n]`, through `mixture`.
    pub(super) fn losses(
        &self,
        base: &Base,
        part: &Dealt,
        mixture: &Mixture,
        step: usize,
    ) -> Result<Losses> {
        let batch = self.batch(part);
        let each = losses(&base.decoder, &batch, Some(mixture), None, self.recompute)?; // [n]
        let owner = |target: &usize| {
            let name = &batch.tasks[*target];
            part.learners
                .iter()
                .position(|&i| self.names[i] == *name)
                .unwrap_or(0)
        };
        let owners: Vec<usize> = batch.target_seqs.iter().map(owner).collect();
        self.check_finite(&each, &batch, part, step)?;
        let mut counts = vec![0f32; part.learners.len()];
        owners.iter().for_each(|&o| counts[o] += 1.0);
        let n = owners.len();
        let mut weights = vec![0f32; counts.len() * n];
        for (target, &o) in owners.iter().enumerate() {
            weights[o * n + target] = 1.0 / counts[o];
        }
        let weights = Tensor::from_vec(weights, (counts.len(), n), each.device())?;
        Ok(Losses {
            values: weights.matmul(&each.unsqueeze(1)?)?.squeeze(1)?,
            tokens: batch.tokens.len(),
        })
    }

    fn check_finite(&self, each: &Tensor, batch: &Batch, part: &Dealt, step: usize) -> Result<()> {
        let values = each.to_vec1::<f32>()?;
        let Some(bad) = values.iter().position(|x| !x.is_finite()) else {
            return Ok(());
        };
        let sequence = batch.target_seqs[bad];
        let rows = part.learners.iter().zip(&part.rows);
        let row = rows
            .flat_map(|(&i, chosen)| chosen.iter().map(move |&j| (i, j)))
            .nth(sequence);
        let (learner, example) = row.unwrap_or_default();
        Err(Error::invalid(format!(
            "the loss of expert `{}` is not finite at step {}, example {example} of its training \
             rows; lower the learning rate",
            self.names[learner],
            step + 1
        )))
    }
}
