//! Keeping the steps of a run of named learners, and continuing from them.

use std::path::Path;

use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::fit::{Checkpointer, Learner};
use crate::error::Result;
use crate::name::Name;
use crate::progress::Progress;

/// The steps of a run's learners, kept in a checkpoint where the run has one.
pub(crate) struct Steps {
    names: Vec<Name>,
    checkpoint: Option<Checkpoint>,
    /// Why the last checkpoint could not be written.
    failure: Option<String>,
}

impl Steps {
    /// The steps of the learners `names`, kept below `root`; `key` tells the run apart from every
    /// other.
    pub(crate) fn new(names: Vec<Name>, root: Option<&Path>, key: &Value) -> Self {
        Steps {
            names,
            checkpoint: root.map(|root| Checkpoint::new(root, key)),
            failure: None,
        }
    }

    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    /// Brings `learners` to where they were; returns whether any step was kept.
    pub(super) fn resume(&self, learners: &mut [Learner], progress: &mut dyn Progress) -> bool {
        let Some(checkpoint) = &self.checkpoint else {
            return false;
        };
        let named = self.names.iter().zip(learners.iter_mut());
        let (step, notes) = checkpoint.resume(&mut named.collect::<Vec<_>>());
        notes.iter().for_each(|note| progress.message(note));
        if step > 0 {
            let total = learners.iter().map(Learner::total_steps).max();
            progress.message(&format!(
                "going on from step {step} of {}, kept in {}",
                total.unwrap_or(0),
                checkpoint.folder().display()
            ));
        }
        step > 0
    }

    /// Returns `true` when the steps taken since the last write are worth one.
    pub(super) fn due(&self) -> bool {
        self.checkpoint.as_ref().is_some_and(Checkpoint::due)
    }

    /// Writes the steps of the learners for which `open` is true, in place of what was written
    /// before.
    pub(super) fn write(&mut self, learners: &[Learner], open: impl Fn(usize) -> bool) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let named = self.names.iter().zip(learners).enumerate();
        let named: Vec<(&Name, &Learner)> = { named.filter(|(i, _)| open(*i)) }
            .map(|(_, named)| named)
            .collect();
        // Training goes on all the same: a checkpoint is for a break that may never come.
        self.failure = match checkpoint.write(&named) {
            Ok(()) => None,
            Err(error) => Some(format!("no checkpoint could be kept: {}", error.chain())),
        };
    }

    /// Reports why the last checkpoint could not be written, if it could not.
    pub(super) fn report(&mut self, progress: &mut dyn Progress) {
        if let Some(text) = self.failure.take() {
            progress.message(&text);
        }
    }

    /// Says where the steps of `whose` are.
    pub(crate) fn left(&self, whose: &str) -> String {
        match &self.checkpoint {
            Some(checkpoint) if checkpoint.folder().is_dir() => format!(
                "the steps of {whose} are kept in {}, and the same training goes on from there",
                checkpoint.folder().display()
            ),
            _ => format!("the steps of {whose} are not kept"),
        }
    }

    /// Forgets what was kept.
    pub(crate) fn delete(&self) {
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.delete();
        }
    }
}

/// All learners end together, and nothing but their steps is kept.
impl Checkpointer for Steps {
    fn stepped(&mut self, learners: &[Learner], finished: &[usize]) -> Result<()> {
        if !finished.is_empty() || self.due() {
            self.write(learners, |_| true);
        }
        Ok(())
    }

    fn stopping(&mut self, learners: &[Learner]) -> Result<()> {
        self.write(learners, |_| true);
        Ok(())
    }
}

/// "1 expert", "2 experts".
pub(super) fn count(experts: usize) -> String {
    match experts {
        1 => "1 expert".into(),
        n => format!("{n} experts"),
    }
}
