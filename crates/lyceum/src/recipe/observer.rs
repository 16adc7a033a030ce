//! Observing the stages of a recipe.

use std::ops::ControlFlow;

use crate::progress::{NoProgress, Progress, Step};

/// Receives the stages of a recipe as they run.
pub trait StageObserver {
    /// Called when the stage `name` begins; the [`Progress`] returned receives its steps and may
    /// stop the recipe. `unit` names the value of a step: "loss", "rouge-l", "acc".
    fn stage(&mut self, name: &str, unit: &'static str) -> Box<dyn Progress + '_>;

    /// Receives a message for people: what was reused, what was found.
    fn message(&mut self, text: &str);
}

impl StageObserver for NoProgress {
    fn stage(&mut self, _: &str, _: &'static str) -> Box<dyn Progress + '_> {
        Box::new(NoProgress)
    }

    fn message(&mut self, _: &str) {}
}

/// Counts the tokens of a stage.
pub(super) struct Counted<'a> {
    pub(super) inner: Box<dyn Progress + 'a>,
    pub(super) tokens: u64,
}

impl Progress for Counted<'_> {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self.tokens += step.tokens as u64;
        self.inner.step(step)
    }

    fn message(&mut self, text: &str) {
        self.inner.message(text);
    }
}
