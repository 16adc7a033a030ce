//! A forward pass: packed sequences, and which of them go through which mixture.

use std::ops::Range;
use std::sync::Arc;

use super::{Bank, Gating, Mixing, Probe, SeqLens};
use crate::error::{Error, Result};
use crate::name::Name;

/// A bank of experts, the router over them and the way their outputs are mixed.
#[derive(Debug, Clone)]
pub struct Mixture {
    /// The experts' factors.
    pub bank: Arc<Bank>,
    /// Who decides.
    pub router: Arc<dyn Gating>,
    /// Rule that combines outputs.
    pub mixing: Mixing,
}

/// Consecutive sequences of a pass that go through one mixture.
#[derive(Debug, Clone)]
pub struct Route<'a> {
    /// The sequences, by their number in the pass.
    pub sequences: Range<usize>,
    /// Their experts.
    pub mixture: &'a Mixture,
}

impl<'a> Route<'a> {
    /// All sequences of `seq_lens` through `mixture`; no route for the bare base.
    pub fn all(seq_lens: &SeqLens, mixture: impl Into<Option<&'a Mixture>>) -> Option<Self> {
        mixture.into().map(|mixture| Route {
            sequences: 0..seq_lens.lens().len(),
            mixture,
        })
    }
}

/// One forward pass: which sequences, of which tasks, through which mixtures.
///
/// The base's products are computed once for all sequences; what experts add is computed route by
/// route, and equals what a pass for each route alone adds.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// The packed sequences.
    pub seq_lens: &'a SeqLens,
    /// The task of each sequence; empty when unknown.
    pub tasks: &'a [Name],
    /// The experts, by ascending ranges of sequences that do not overlap. A sequence under no route
    /// goes through the bare base.
    pub routes: &'a [Route<'a>],
    /// Who watches the gates.
    pub probe: Option<&'a dyn Probe>,
    /// Activation recomputation: the backward pass recomputes the inside of blocks instead of
    /// storing it; less memory, more time, the same results.
    pub recompute: bool,
}

impl<'a> Pass<'a> {
    /// A pass of these sequences, of unknown tasks, through the bare base.
    pub fn new(seq_lens: &'a SeqLens) -> Self {
        Pass {
            seq_lens,
            tasks: &[],
            routes: &[],
            probe: None,
            recompute: false,
        }
    }

    /// Checks that the routes are ascending ranges of sequences of this pass.
    pub(crate) fn check_routes(&self) -> Result<()> {
        let n = self.seq_lens.lens().len();
        let mut end = 0;
        for Range { start, end: to } in self.routes.iter().map(|route| route.sequences.clone()) {
            if start < end || to < start || to > n {
                return Err(Error::Mismatch(format!(
                    "a route over the sequences {start}..{to} of {n}: routes must be in ascending \
                     order, must not overlap and must end with the batch"
                )));
            }
            end = to;
        }
        Ok(())
    }

    /// The rows of the sequences of `route` among all tokens.
    pub(super) fn rows(&self, route: &Route<'_>) -> Range<usize> {
        let (lens, own) = (self.seq_lens.lens(), &route.sequences);
        let start = lens[..own.start].iter().sum();
        start..start + lens[own.clone()].iter().sum::<usize>()
    }

    /// Calls `f` with this pass limited to the sequences of `route`.
    pub(super) fn limited<T>(&self, route: &Route<'_>, f: impl FnOnce(&Pass<'_>) -> T) -> T {
        let (n, own) = (self.seq_lens.lens().len(), route.sequences.clone());
        if own == (0..n) {
            return f(self);
        }
        let seq_lens = self.seq_lens.part(own.clone());
        // Tasks are one per sequence, or unknown.
        let tasks = match self.tasks.len() == n {
            true => &self.tasks[own],
            false => &[],
        };
        let routes = Route::all(&seq_lens, route.mixture);
        f(&Pass {
            seq_lens: &seq_lens,
            tasks,
            routes: routes.as_slice(),
            probe: self.probe,
            recompute: self.recompute,
        })
    }
}

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.routes.iter().map(|route| &route.sequences);
        f.debug_struct("Pass")
            .field("seq_lens", self.seq_lens)
            .field("tasks", &self.tasks)
            .field("routes", &ranges.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
