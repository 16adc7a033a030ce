//! The oracle: every example goes to the expert trained on its task.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Gates, Pass, Router};
use crate::name::{Name, Site};

/// Routes by task name; an expert of several tasks (a cluster's) serves each of them.
#[derive(Debug)]
pub struct Oracle {
    of: BTreeMap<Name, usize>,
    experts: usize,
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
        let of = experts.iter().enumerate().flat_map(tasks).collect();
        Oracle {
            of,
            experts: experts.len(),
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
    fn gates(&self, _: &Site, _: &Tensor, pass: &Pass<'_>) -> Result<Gates> {
        if pass.tasks.len() != pass.segments.lens().len() {
            return Err(Error::invalid(
                "the oracle routes by task name: name the task of every example (--tasks)",
            ));
        }
        let chosen: Vec<usize> = pass
            .tasks
            .iter()
            .map(|task| self.expert(task))
            .collect::<Result<_>>()?;
        Ok(Gates::Token(one_hot(
            pass.segments.owners().map(|s| chosen[s]),
            self.experts,
        )?))
    }
}

/// Rows with a single 1 at each of `chosen`: `[t, experts]`.
pub(super) fn one_hot(chosen: impl Iterator<Item = usize>, experts: usize) -> Result<Tensor> {
    let mut gates = Vec::new();
    for e in chosen {
        gates.extend((0..experts).map(|i| f32::from(u8::from(i == e))));
    }
    let t = gates.len() / experts;
    Ok(Tensor::from_vec(gates, (t, experts), &Device::Cpu)?)
}
