//! The settings of an optimisation.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Hyperparameters of a training run: AdamW with linear decay, gradients clipped by their norm.
///
/// ```
/// use lyceum::train::TrainConfig;
///
/// let config = TrainConfig::default().lr(5e-3).batch(8).steps(100);
/// assert_eq!((config.batch, config.total_steps(1_000)), (8, 100));
/// assert!(config.lr(-1.0).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainConfig {
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
    /// Activation checkpointing: only the input of each block is kept, and the rest is computed
    /// again in the backward pass, which takes less memory and more time. Results are the same
    /// bit for bit, so an expert does not remember it.
    #[serde(skip_serializing)]
    pub recompute: bool,
}

impl Default for TrainConfig {
    /// The tutorial's settings: five epochs in batches of 16, at a rate of 1e-2.
    fn default() -> Self {
        TrainConfig {
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

impl TrainConfig {
    /// Sets the peak learning rate.
    #[must_use]
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// Sets the examples per step.
    #[must_use]
    pub fn batch(mut self, examples: usize) -> Self {
        self.batch = examples;
        self
    }

    /// Sets the passes over the data, and takes back [`TrainConfig::steps`].
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        (self.epochs, self.steps) = (epochs, None);
        self
    }

    /// Sets the steps, whatever the epochs are.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Sets the share of the steps, 0 to 1, over which the rate rises from 0.
    #[must_use]
    pub fn warmup(mut self, share: f64) -> Self {
        self.warmup = share;
        self
    }

    /// Sets the decoupled weight decay.
    #[must_use]
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// Sets the largest gradient norm.
    #[must_use]
    pub fn clip(mut self, norm: f64) -> Self {
        self.clip = norm;
        self
    }

    /// Sets the longest input, in tokens.
    #[must_use]
    pub fn max_input(mut self, tokens: usize) -> Self {
        self.max_input = tokens;
        self
    }

    /// Sets the seed of initialisation and data order.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Turns activation checkpointing on or off.
    #[must_use]
    pub fn recompute(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

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
            c if !(c.lr > 0.0 && c.lr.is_finite()) => bad("lr must be above 0"),
            c if c.batch == 0 => bad("batch must be at least 1"),
            c if c.epochs == 0 || c.steps == Some(0) => bad("there must be a step to take"),
            c if !(0.0..=1.0).contains(&c.warmup) => bad("warmup is a share from 0 to 1"),
            c if c.weight_decay.is_nan() || c.weight_decay < 0.0 => bad("weight_decay"),
            c if c.clip.is_nan() || c.clip <= 0.0 => bad("clip must be above 0"),
            c if c.max_input < 2 => bad("max_input must be at least 2"),
            _ => Ok(()),
        }
    }

    /// Returns the number of steps over `examples` examples.
    pub fn total_steps(&self, examples: usize) -> usize {
        self.steps
            .unwrap_or(examples.div_ceil(self.batch) * self.epochs)
    }
}
