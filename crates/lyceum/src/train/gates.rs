//! Training PhatGOOSE gates (arXiv:2402.05859): experts frozen, one vector per expert and site,
//! the expert's output weighted by `sigmoid(v . x)`; all experts' gates in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use super::expert::{Feed, FeedPart};
use super::{Ended, How, Job, Learner, Nothing, Watch, fit};
use crate::backbone::Base;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::lora::Lora;
use crate::mix::{Bank, Mixing, Mixture};
use crate::name::{Name, Site};
use crate::route::trained_gates;

/// One expert's gates `[d_in]` by site, and its losses.
pub type Gated = (BTreeMap<Site, Tensor>, Vec<f64>);

/// One expert's gates `[1, d_in]` by site, while they are trained.
type Gates = BTreeMap<Site, Var>;

/// Trains the gates of `experts`, each on the examples of the job at its place; gates start at 0.
/// Returns per expert the gates `[d_in]` by site, and its losses.
///
/// # Errors
/// When a setting is out of range, a job has no example, or a loss is not finite;
/// [`Error::Stopped`] when the watch says stop.
pub fn gates(
    base: &Arc<Base>,
    experts: &[Expert],
    jobs: &[Job],
    how: &How,
    watch: &mut dyn Watch,
) -> Result<Vec<Gated>> {
    how.check()?;
    let mut feed = Feed::new(base, jobs, how)?;
    let fresh: Vec<Gates> = experts.iter().map(fresh).collect::<Result<_>>()?;
    let learner = |(i, gates): (usize, &Gates)| {
        let vars = gates.values().cloned().collect();
        Learner::new(vars, how, how.total(feed.examples(i)))
    };
    let learners = fresh.iter().enumerate().map(learner);
    let mut learners: Vec<Learner> = learners.collect::<Result<_>>()?;
    let part = |feed: &Feed, part: &FeedPart, step: usize| {
        let owners: Vec<Name> = part
            .learners
            .iter()
            .map(|&i| jobs[i].name.clone())
            .collect();
        let gates: Vec<&Gates> = part.learners.iter().map(|&i| &fresh[i]).collect();
        let loras = part.learners.iter().map(|&i| &experts[i].loras);
        let bank = Arc::new(Bank::new(owners.iter().cloned().zip(loras))?);
        let router = Arc::new(trained_gates(&vectors(&gates)?, owners)?);
        let mixture = Mixture {
            bank,
            router,
            mixing: Mixing::Outputs,
        };
        feed.losses(base, part, &mixture, step)
    };
    let ended = fit(&mut learners, &mut feed, watch, &mut Nothing, part)?;
    if let Ended::At { step, steps } = ended {
        return Err(Error::Stopped(format!(
            "stopped after step {step} of {steps} of the gates, which end together: none is \
             finished, and none is kept"
        )));
    }
    let gated = |(gates, learner): (&Gates, Learner)| {
        let gate = |(site, var): (&Site, &Var)| {
            Ok((site.clone(), var.as_tensor().squeeze(0)?.copy()?.detach()))
        };
        let gates = gates.iter().map(gate).collect::<Result<_>>()?;
        Ok((gates, learner.losses))
    };
    fresh.iter().zip(learners).map(gated).collect()
}

/// The gates that training of `expert`'s begins with: zeros.
fn fresh(expert: &Expert) -> Result<Gates> {
    let zero = |(site, lora): (&Site, &Lora)| {
        let gate = Var::zeros((1, lora.d_in()), DType::F32, &Device::Cpu)?;
        Ok((site.clone(), gate))
    };
    expert.loras.iter().map(zero).collect()
}

/// The gates of several experts together: by site a row for each, zeros for an expert without it.
fn vectors(gates: &[&Gates]) -> Result<BTreeMap<Site, Vec<Tensor>>> {
    let sites: BTreeSet<&Site> = gates.iter().flat_map(|own| own.keys()).collect();
    let mut vectors: BTreeMap<Site, Vec<Tensor>> = BTreeMap::new();
    for site in sites {
        for own in gates {
            let row = match own.get(site) {
                Some(var) => var.as_tensor().clone(),
                None => {
                    let width = gates.iter().find_map(|other| other.get(site));
                    let like = width.map_or((1, 1), |v| (1, v.elem_count()));
                    Tensor::zeros(like, DType::F32, &Device::Cpu)?
                }
            };
            vectors.entry(site.clone()).or_default().push(row);
        }
    }
    Ok(vectors)
}
