//! The optimisation loop: one for experts, gates and whole models.
//!
//! Each [`Learner`] has its own variables, optimiser state, schedule and gradient clipping, so
//! many of them train in one pass over one frozen base exactly as each would alone. An
//! [`Objective`] deals their batches and computes the losses.

use std::ops::ControlFlow;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::Schedule;
use super::adamw::AdamW;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step};

/// A set of variables under optimisation by AdamW.
#[derive(Debug)]
pub struct Learner {
    vars: Vec<Var>,
    schedule: Schedule,
    clip: f64,
    optimiser: AdamW,
    losses: Vec<f64>,
    /// Gradients by variable and loss of the micro-batches of the step at hand.
    gradients: Vec<Option<Vec<f32>>>,
    loss: f64,
}

impl Learner {
    /// Creates a learner that has taken no step yet, without weight decay or clipping.
    pub fn new(vars: Vec<Var>, schedule: Schedule) -> Self {
        Learner {
            optimiser: AdamW::new(&vars, 0.0),
            gradients: vec![None; vars.len()],
            vars,
            schedule,
            clip: f64::INFINITY,
            losses: Vec::new(),
            loss: 0.0,
        }
    }

    /// Sets the decoupled weight decay.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.optimiser.decay = decay;
        self
    }

    /// Sets the largest norm of the gradients of all variables together.
    #[must_use]
    pub fn clip(mut self, norm: f64) -> Self {
        self.clip = norm;
        self
    }

    /// Returns the variables.
    pub fn vars(&self) -> &[Var] {
        &self.vars
    }

    /// Returns the loss of every step taken, in nats per token.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Returns the number of steps to take in all.
    pub fn total_steps(&self) -> usize {
        self.schedule.total
    }

    /// Returns `true` once all steps are taken.
    pub fn finished(&self) -> bool {
        self.losses.len() >= self.schedule.total
    }

    /// Returns AdamW's running means of the gradients, flat and by variable.
    pub fn first_moments(&self) -> &[Vec<f32>] {
        &self.optimiser.first
    }

    /// Returns AdamW's running means of the squared gradients, flat and by variable.
    pub fn second_moments(&self) -> &[Vec<f32>] {
        &self.optimiser.second
    }

    /// Continues from a state that [`Learner::losses`], [`Learner::first_moments`] and
    /// [`Learner::second_moments`] described; the variables are set by the caller.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a moment has another size than its variable.
    pub fn resume(
        &mut self,
        losses: Vec<f64>,
        first: Vec<Vec<f32>>,
        second: Vec<Vec<f32>>,
    ) -> Result<()> {
        let sizes = || self.vars.iter().map(|var| var.elem_count());
        let fits = |moments: &[Vec<f32>]| moments.iter().map(Vec::len).eq(sizes());
        if !fits(&first) || !fits(&second) {
            let text = "the moments of an optimiser have other sizes than its variables";
            return Err(Error::Mismatch(text.into()));
        }
        self.optimiser.steps = losses.len() as u64;
        (self.optimiser.first, self.optimiser.second) = (first, second);
        self.losses = losses;
        Ok(())
    }

    /// Adds the gradients and the loss of a micro-batch to those of its step.
    fn accumulate(&mut self, store: &GradStore, loss: f64) -> Result<()> {
        for (sum, var) in self.gradients.iter_mut().zip(&self.vars) {
            let Some(gradient) = store.get(var) else {
                continue;
            };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            match sum {
                None => *sum = Some(gradient),
                Some(sum) => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            }
        }
        self.loss += loss;
        Ok(())
    }

    /// Updates the variables from the gradients of step `step`, counted from 0; returns its loss.
    fn update(&mut self, step: usize) -> Result<f64> {
        let gradients = std::mem::replace(&mut self.gradients, vec![None; self.vars.len()]);
        let loss = std::mem::take(&mut self.loss);
        let lr = self.schedule.rate(step);
        { &mut self.optimiser }.update(&self.vars, &gradients, lr, self.clip)?;
        self.losses.push(loss);
        Ok(loss)
    }
}

/// The rows of one forward and backward pass: a part of the batches of some learners. Its
/// graph is freed before the next one's is built.
#[derive(Debug, Clone)]
pub struct MicroBatch<R> {
    /// The learners that learn from it, as indices.
    pub learners: Vec<usize>,
    /// Its rows.
    pub rows: R,
}

/// The losses of a micro-batch.
#[derive(Debug)]
pub struct Losses {
    /// `[n]`, one loss for each of its learners, in their order. Gradients and losses of the
    /// micro-batches of a step are added up.
    pub values: Tensor,
    /// Tokens computed.
    pub tokens: usize,
}

/// Deals batches to learners and computes their losses.
pub trait Objective {
    /// The rows of a micro-batch.
    type Rows;

    /// Passes over the batches of the first `steps` steps of `learner`, which it has taken.
    fn skip(&mut self, learner: usize, steps: usize);

    /// Deals the batches of step `step`, counted from 0, to the learners `active`.
    ///
    /// # Errors
    /// When rows cannot be read.
    fn deal(&mut self, step: usize, active: &[usize]) -> Result<Vec<MicroBatch<Self::Rows>>>;

    /// Computes the losses of a micro-batch of step `step`, with a graph to all variables.
    ///
    /// # Errors
    /// When the model cannot be computed.
    fn losses(&self, batch: &MicroBatch<Self::Rows>, step: usize) -> Result<Losses>;
}

/// Keeps what learners have learned while they learn.
pub trait Checkpointer {
    /// Called after every step with the learners that took their last one.
    ///
    /// # Errors
    /// Any failure that must end the run.
    fn stepped(&mut self, learners: &[Learner], finished: &[usize]) -> Result<()>;

    /// Called when the run stops before its end.
    ///
    /// # Errors
    /// Any failure the caller must know of.
    fn stopping(&mut self, learners: &[Learner]) -> Result<()>;
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoCheckpoint;

impl Checkpointer for NoCheckpoint {
    fn stepped(&mut self, _: &[Learner], _: &[usize]) -> Result<()> {
        Ok(())
    }
    fn stopping(&mut self, _: &[Learner]) -> Result<()> {
        Ok(())
    }
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every learner took all its steps.
    Finished,
    /// The run was asked to stop.
    Stopped {
        /// Steps done.
        done: usize,
        /// Steps of the longest learner; as many as done when the stop came after the last one.
        total: usize,
    },
}

impl Outcome {
    /// Returns the steps done and those of the whole run, if the run stopped before its end.
    pub fn unfinished(self) -> Option<(usize, usize)> {
        match self {
            Outcome::Stopped { done, total } if done < total => Some((done, total)),
            _ => None,
        }
    }
}

/// Trains `learners` until all have taken their steps or `progress` stops the run. They continue
/// from as many steps as they have losses.
///
/// At each step the learners that have steps left and stand at it get their micro-batches from
/// `objective`; each is updated once, when its last micro-batch of the step is done.
///
/// # Errors
/// Any failure of `objective` or `checkpointer`; a loss or gradient that is not finite.
pub fn fit<O: Objective>(
    learners: &mut [Learner],
    objective: &mut O,
    checkpointer: &mut dyn Checkpointer,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let total = learners.iter().map(Learner::total_steps).max().unwrap_or(0);
    let open = learners.iter().filter(|learner| !learner.finished());
    let first = open.map(|l| l.losses.len()).min().unwrap_or(total);
    for (i, learner) in learners.iter().enumerate() {
        objective.skip(i, learner.losses.len());
    }
    for step in first..total {
        // All at this step; one that is ahead waits for the others.
        let active: Vec<usize> = (0..learners.len())
            .filter(|&i| learners[i].losses.len() == step && !learners[i].finished())
            .collect();
        let taken = take(learners, objective, step, &active)?;
        let (done, loss, tokens) = (taken.done, taken.value, taken.tokens);
        tracing::debug!(step = done, total, loss, tokens, "training step");
        let flow = progress.step(&Step { total, ..taken });
        let finished = active.into_iter().filter(|&i| learners[i].finished());
        checkpointer.stepped(learners, &finished.collect::<Vec<_>>())?;
        if let ControlFlow::Break(()) = flow {
            let done = step + 1;
            if done < total {
                checkpointer.stopping(learners)?;
            }
            return Ok(Outcome::Stopped { done, total });
        }
    }
    Ok(Outcome::Finished)
}

/// Takes step `step` of the learners `active`.
fn take<O: Objective>(
    learners: &mut [Learner],
    objective: &mut O,
    step: usize,
    active: &[usize],
) -> Result<Step> {
    let (mut sum, mut tokens) = (0.0, 0);
    let mut batches = objective.deal(step, active)?.into_iter();
    while let Some(batch) = batches.next() {
        let losses = objective.losses(&batch, step)?;
        let values = losses.values.to_vec1::<f32>()?;
        if values.iter().any(|loss| !loss.is_finite()) {
            return Err(Error::invalid(format!(
                "the loss is not finite at step {}; lower the learning rate",
                step + 1
            )));
        }
        let gradients = losses.values.sum_all()?.backward()?;
        tokens += losses.tokens;
        for (&i, loss) in batch.learners.iter().zip(values) {
            learners[i].accumulate(&gradients, f64::from(loss))?;
            let more = |later: &MicroBatch<O::Rows>| later.learners.contains(&i);
            if !batches.as_slice().iter().any(more) {
                sum += learners[i].update(step)?;
            }
        }
    }
    Ok(Step {
        value: sum / active.len().max(1) as f64,
        tokens,
        ..Step::new(step + 1, 0)
    })
}
