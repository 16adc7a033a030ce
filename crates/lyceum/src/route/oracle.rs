//! The oracle: every example goes to the expert trained on its task.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Gates, Pass, Router};
use crate::name::{Name, Site};

/// Routes by task name; an expert of several tasks (a cluster's) serves each of them.
#[derive(Debug)]
pub struct Oracle {
    of: BTreeMap<Name, usize>,
}

impl Oracle {
    /// The oracle over `experts`; of two experts for one task the later name serves it.
    pub fn new(experts: &[Expert]) -> Self {
        let tasks = |(i, e): (usize, &Expert)| {
            e.card
                .tasks
                .iter()
                .map(move |task| (task.clone(), i))
                .collect::<Vec<_>>()
        };
        Oracle {
            of: experts.iter().enumerate().flat_map(tasks).collect(),
        }
    }

    /// The expert that serves `task`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none does.
    pub fn expert(&self, task: &Name) -> Result<usize> {
        self.of.get(task).copied().ok_or_else(|| {
            Error::not_found(
                "expert for task",
                task.as_str(),
                self.of.keys().map(Name::as_str),
            )
        })
    }
}

impl Router for Oracle {
    fn reads_input(&self) -> bool {
        false
    }

    fn gates(&self, _: &Site, _: &[f32], pass: &Pass<'_>) -> Result<Gates> {
        if pass.tasks.len() != pass.segments.lens().len() {
            return Err(Error::invalid(
                "the oracle routes by task name: name the task of every example (--tasks)",
            ));
        }
        let expert = |task| Ok(self.expert(task)? as u32);
        let chosen: Vec<u32> = pass.tasks.iter().map(expert).collect::<Result<_>>()?;
        let experts: Vec<u32> = pass.segments.owners().map(|s| chosen[s]).collect();
        let weights = vec![1.0; experts.len()];
        Ok(Gates::known(1, experts, weights))
    }
}
