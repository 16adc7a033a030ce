//! Training PhatGOOSE gates (arXiv:2402.05859): experts frozen, one vector per expert and site,
//! the expert's output weighted by `sigmoid(v . x)`; all experts' gates in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

use super::TrainConfig;
use super::feed::{Dealt, Feed, Job};
use super::fit::{Losses, Objective, Outcome, fit};
use super::resume::{Steps, count};
use crate::backbone::Base;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Bank, Mixing, Mixture};
use crate::name::{Name, Site};
use crate::progress::Progress;
use crate::route::trained_gates;

/// One expert's gates `[d_in]` by site, and its losses.
pub type Gated = (BTreeMap<Site, Tensor>, Vec<f64>);

/// Trains the gates of `experts`, each on the examples of the job at its place; gates start at 0.
/// Returns per expert the gates `[d_in]` by site, and its losses.
///
/// # Errors
/// When a setting is out of range, a job has no example, or a loss is not finite;
/// [`Error::Stopped`] when `progress` stops the run before its last step, and then nothing is
/// kept.
pub fn gates(
    base: &Arc<Base>,
    experts: &[Expert],
    jobs: &[Job],
    config: &TrainConfig,
    progress: &mut dyn Progress,
) -> Result<Vec<Gated>> {
    let training = GateTraining {
        base,
        experts,
        jobs,
        config,
    };
    let names = jobs.iter().map(|job| job.name.clone()).collect();
    let trained = training.run(&mut Steps::new(names, None, &Value::Null), progress)?;
    Ok(trained.gates)
}

/// Gates to train: those of `experts`, each on the examples of the job at its place.
pub(crate) struct GateTraining<'a> {
    pub(crate) base: &'a Arc<Base>,
    pub(crate) experts: &'a [Expert],
    pub(crate) jobs: &'a [Job],
    pub(crate) config: &'a TrainConfig,
}

/// Gates that took all their steps.
pub(crate) struct TrainedGates {
    /// In the order of the experts.
    pub(crate) gates: Vec<Gated>,
    /// The run was asked to stop after its last step.
    pub(crate) stopped: bool,
}

impl GateTraining<'_> {
    /// Trains the gates, from the steps that `steps` kept of an earlier run.
    pub(crate) fn run(
        &self,
        steps: &mut Steps,
        progress: &mut dyn Progress,
    ) -> Result<TrainedGates> {
        self.config.check()?;
        let fresh: Vec<BTreeMap<Site, Var>> =
            self.experts.iter().map(fresh).collect::<Result<_>>()?;
        let mut objective = Vectors {
            training: self,
            feed: Feed::new(self.base, self.jobs, self.config)?,
            fresh,
        };
        let vars = { objective.fresh.iter() }.map(|vars| vars.values().cloned().collect());
        let mut learners = objective.feed.learners(vars, self.config);
        steps.resume(&mut learners, progress);
        let outcome = fit(&mut learners, &mut objective, steps, progress)?;
        steps.report(progress);
        if let Some((done, total)) = outcome.unfinished() {
            let left = steps.left(&format!("the gates of {}", count(learners.len())));
            return Err(Error::Stopped(format!(
                "stopped after step {done} of {total} of the gates, which end together: none is \
                 finished; {left}"
            )));
        }
        let gates = { objective.fresh.iter().zip(&learners) }
            .map(|(vars, learner)| {
                let gate = |(site, var): (&Site, &Var)| {
                    Ok((site.clone(), var.as_tensor().squeeze(0)?.copy()?.detach()))
                };
                let gates = vars.iter().map(gate).collect::<Result<_>>()?;
                Ok((gates, learner.losses().to_vec()))
            })
            .collect::<Result<_>>()?;
        Ok(TrainedGates {
            gates,
            stopped: matches!(outcome, Outcome::Stopped { .. }),
        })
    }
}

/// A zero vector `[1, d_in]` for every site of `expert`.
fn fresh(expert: &Expert) -> Result<BTreeMap<Site, Var>> {
    let zero = |(site, lora): (&Site, &crate::lora::Lora)| {
        let zeros = Var::zeros((1, lora.d_in()), DType::F32, &Device::Cpu)?;
        Ok((site.clone(), zeros))
    };
    expert.loras.iter().map(zero).collect()
}

/// The gate vectors of many experts, each learning from its own rows.
struct Vectors<'a> {
    training: &'a GateTraining<'a>,
    feed: Feed,
    fresh: Vec<BTreeMap<Site, Var>>,
}

impl Vectors<'_> {
    /// The vectors `[1, d_in]` of these learners at every site of any of them; zeros where one has
    /// no such site.
    fn rows(&self, learners: &[usize]) -> Result<BTreeMap<Site, Vec<Tensor>>> {
        let sites: BTreeSet<&Site> = { learners.iter() }
            .flat_map(|&i| self.fresh[i].keys())
            .collect();
        let mut vectors: BTreeMap<Site, Vec<Tensor>> = BTreeMap::new();
        for site in sites {
            for &i in learners {
                let row = match self.fresh[i].get(site) {
                    Some(var) => var.as_tensor().clone(),
                    None => {
                        let width = learners.iter().find_map(|&j| self.fresh[j].get(site));
                        let like = width.map_or((1, 1), |v| (1, v.elem_count()));
                        Tensor::zeros(like, DType::F32, &Device::Cpu)?
                    }
                };
                vectors.entry(site.clone()).or_default().push(row);
            }
        }
        Ok(vectors)
    }
}

impl Objective for Vectors<'_> {
    type Rows = Vec<Vec<usize>>;

    fn skip(&mut self, learner: usize, steps: usize) {
        self.feed.skip(learner, steps);
    }

    fn deal(&mut self, _: usize, active: &[usize]) -> Result<Vec<Dealt>> {
        Ok(self.feed.deal(active))
    }

    fn losses(&self, batch: &Dealt, step: usize) -> Result<Losses> {
        let GateTraining {
            base,
            experts,
            jobs,
            ..
        } = self.training;
        let learners = batch.learners.iter();
        let owners: Vec<Name> = { learners.clone() }
            .map(|&i| jobs[i].name.clone())
            .collect();
        let loras = learners.map(|&i| &experts[i].loras);
        let bank = Arc::new(Bank::new(owners.iter().cloned().zip(loras))?);
        let router = Arc::new(trained_gates(&self.rows(&batch.learners)?, owners)?);
        let mixture = Mixture {
            bank,
            router,
            mixing: Mixing::Outputs,
        };
        self.feed.losses(base, batch, &mixture, step)
    }
}
