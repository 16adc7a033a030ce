//! Training: one loop for experts, gates and whole models.
//!
//! Each learner has its own variables, optimiser state, schedule and gradient clipping, so
//! many learners train in one pass over one frozen base exactly as each would alone.

mod adamw;
mod checkpoint;
mod expert;
mod gates;
mod into;
mod plan;
mod pretrain;
mod schedule;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};

pub use checkpoint::checkpoints_of_user;
pub use expert::{Job, experts};
pub use gates::{Gated, gates};
pub use into::{Trained, TrainedExpert};
pub use plan::{Differing, Plan, Training, origin};
pub use pretrain::{Pretrain, Progress, pretrain};
pub use schedule::{Batches, Schedule};

use adamw::AdamW;
use expert::{Feed, FeedPart};

use crate::error::{Error, Result};

/// Watches a long run: called after every step.
pub trait Watch {
    /// `step` of `steps` is done; `loss` is the mean over the learners that took it, `tokens` how
    /// many tokens it read.
    fn step(&mut self, step: usize, steps: usize, loss: f64, tokens: usize);
    /// True once the run should stop: it does so after the step it is at, keeping what it can.
    fn stopped(&self) -> bool {
        false
    }
    /// Hears something worth a line: what the run goes on from, what it replaces.
    fn say(&mut self, _text: &str) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn step(&mut self, _: usize, _: usize, _: f64, _: usize) {}
}

/// How a learner is optimised: AdamW with linear decay, gradients clipped by their norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct How {
    /// Peak learning rate.
    pub lr: f64,
    /// Examples per step.
    pub batch: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Steps, instead of epochs.
    pub steps: Option<usize>,
    /// Share of the steps over which the rate rises from 0.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// Longest input in tokens; the left end of longer ones is cut off.
    pub max_input: usize,
    /// Seed of initialisation and data order.
    pub seed: u64,
    /// Keep only what goes into each block and compute the rest again in the backward pass: less
    /// memory, more time. Results are the same bit for bit, so an expert does not remember it.
    #[serde(skip_serializing)]
    pub recompute: bool,
}

impl Default for How {
    /// The tutorial's settings.
    fn default() -> Self {
        How {
            lr: 1e-2,
            batch: 16,
            epochs: 5,
            steps: None,
            warmup: 0.0,
            weight_decay: 0.0,
            clip: 1.0,
            max_input: 1024,
            seed: 42,
            recompute: false,
        }
    }
}

impl How {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first value out of range.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| {
            Err(Error::invalid(format!(
                "training setting out of range: {what}"
            )))
        };
        match self {
            how if !(how.lr > 0.0 && how.lr.is_finite()) => bad("lr must be above 0"),
            how if how.batch == 0 => bad("batch must be at least 1"),
            how if how.epochs == 0 || how.steps == Some(0) => bad("there must be a step to take"),
            how if !(0.0..=1.0).contains(&how.warmup) => bad("warmup is a share from 0 to 1"),
            how if how.weight_decay.is_nan() || how.weight_decay < 0.0 => bad("weight_decay"),
            how if how.clip.is_nan() || how.clip <= 0.0 => bad("clip must be above 0"),
            how if how.max_input < 2 => bad("max_input must be at least 2"),
            _ => Ok(()),
        }
    }

    /// Steps over `examples` examples.
    pub fn total(&self, examples: usize) -> usize {
        self.steps
            .unwrap_or(examples.div_ceil(self.batch) * self.epochs)
    }
}

/// One set of variables under optimisation.
#[derive(Debug)]
pub(crate) struct Learner {
    pub(crate) vars: Vec<Var>,
    pub(crate) schedule: Schedule,
    pub(crate) clip: f64,
    pub(crate) optimiser: AdamW,
    pub(crate) losses: Vec<f64>,
}

impl Learner {
    pub(crate) fn new(vars: Vec<Var>, how: &How, total: usize) -> Result<Self> {
        let optimiser = AdamW::new(&vars, how.weight_decay)?;
        let schedule = Schedule::linear(how.lr, how.warmup, total);
        Ok(Learner {
            vars,
            schedule,
            clip: how.clip,
            optimiser,
            losses: Vec::new(),
        })
    }

    /// True once it took all its steps.
    pub(crate) fn done(&self) -> bool {
        self.losses.len() >= self.schedule.total
    }
}

/// What one part of a step computed: losses `[n]` of these learners, over so many tokens.
pub(crate) struct Part {
    pub(crate) learners: Vec<usize>,
    pub(crate) losses: Tensor,
    pub(crate) tokens: usize,
}

/// Keeps what learners have learned while they learn.
pub(crate) trait Keep {
    /// Hears after every step which learners took their last one.
    ///
    /// # Errors
    /// Whatever must end the run.
    fn stepped(&mut self, learners: &[Learner], ended: &[usize]) -> Result<()>;
    /// Hears that the run stops here before its end.
    ///
    /// # Errors
    /// Whatever the caller must know.
    fn stopping(&mut self, learners: &[Learner]) -> Result<()>;
}

/// Keeps nothing.
pub(crate) struct Nothing;

impl Keep for Nothing {
    fn stepped(&mut self, _: &[Learner], _: &[usize]) -> Result<()> {
        Ok(())
    }
    fn stopping(&mut self, _: &[Learner]) -> Result<()> {
        Ok(())
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every learner took all its steps.
    Whole,
    /// It was asked to stop after so many steps.
    At {
        /// Steps done.
        step: usize,
        /// Steps of the longest learner.
        steps: usize,
    },
}

/// THE optimisation loop: at each step the feed deals the active learners' batches in parts, and
/// `part` computes the losses of one; its graph is freed before the next is built. Learners go on
/// from as many steps as they have losses.
///
/// # Errors
/// Whatever a part runs into; a loss that is not finite stops the run.
pub(crate) fn fit(
    learners: &mut [Learner],
    feed: &mut Feed,
    watch: &mut dyn Watch,
    keep: &mut dyn Keep,
    part: impl Fn(&Feed, &FeedPart, usize) -> Result<Part>,
) -> Result<Ended> {
    let steps = learners.iter().map(|l| l.schedule.total).max().unwrap_or(0);
    let open = learners.iter().filter(|learner| !learner.done());
    let first = open.map(|l| l.losses.len()).min().unwrap_or(steps);
    for (i, learner) in learners.iter().enumerate() {
        feed.skip(i, learner.losses.len());
    }
    for step in first..steps {
        if watch.stopped() {
            keep.stopping(learners)?;
            return Ok(Ended::At { step, steps });
        }
        // All at this step; one that is ahead waits for the others.
        let active: Vec<usize> = (0..learners.len())
            .filter(|&i| learners[i].losses.len() == step && !learners[i].done())
            .collect();
        let (mut sum, mut tokens) = (0.0, 0);
        for dealt in feed.parts(&active) {
            let part = part(feed, &dealt, step)?;
            let losses = part.losses.to_vec1::<f32>()?;
            let gradients = part.losses.sum_all()?.backward()?;
            for (&i, loss) in part.learners.iter().zip(losses) {
                let learner = &mut learners[i];
                let lr = learner.schedule.rate(step);
                learner
                    .optimiser
                    .step(&learner.vars, &gradients, lr, learner.clip)?;
                learner.losses.push(f64::from(loss));
                sum += f64::from(loss);
            }
            tokens += part.tokens;
        }
        let ended = active.iter().copied().filter(|&i| learners[i].done());
        let ended: Vec<usize> = ended.collect();
        watch.step(step + 1, steps, sum / active.len().max(1) as f64, tokens);
        keep.stepped(learners, &ended)?;
    }
    Ok(Ended::Whole)
}
