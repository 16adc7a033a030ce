//! Progress of long runs, and how to stop them.
//!
//! Training, evaluation and recipes report each step to a [`Progress`]; what its
//! [`step`](Progress::step) returns decides whether the run goes on. A closure is one:
//!
//! ```
//! use std::ops::ControlFlow;
//! use lyceum::progress::{Progress, Step};
//!
//! // Stops a run after its tenth step.
//! let mut ten = |step: &Step| match step.done {
//!     10.. => ControlFlow::Break(()),
//!     _ => ControlFlow::Continue(()),
//! };
//! assert!(ten.step(&Step::new(9, 50)).is_continue());
//! assert!(ten.step(&Step::new(10, 50)).is_break());
//! ```

use std::ops::ControlFlow;

/// A step that a run has just taken.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Steps done, this one and those of an earlier, interrupted run included. An evaluation
    /// counts examples.
    pub done: usize,
    /// Steps of the whole run.
    pub total: usize,
    /// The quantity that is watched: in training the mean loss, in nats per token, over the
    /// learners that took this step; in an evaluation the mean score so far.
    pub value: f64,
    /// Tokens computed in this step.
    pub tokens: usize,
}

impl Step {
    /// Step `done` (counted from 1) of `total`, with a `value` of 0 and no tokens.
    pub fn new(done: usize, total: usize) -> Self {
        Step {
            done,
            total,
            value: 0.0,
            tokens: 0,
        }
    }
}

/// Receives the progress of a long run.
pub trait Progress {
    /// Called after each step. `Break` stops the run there: it keeps what is finished, and ends
    /// with [`Error::Stopped`](crate::Error::Stopped), which says what that is.
    fn step(&mut self, step: &Step) -> ControlFlow<()>;

    /// Receives a message for people: the step an interrupted run continues from, what is
    /// replaced, a warning.
    fn message(&mut self, _text: &str) {}
}

/// Ignores all progress and never stops a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&mut self, _: &Step) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(&Step) -> ControlFlow<()>> Progress for F {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self(step)
    }
}
