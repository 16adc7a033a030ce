//! Training PhatGOOSE gates (arXiv:2402.05859): experts frozen, one vector per expert and site,
//! the expert's output weighted by `sigmoid(v . x)`; all experts' gates in one pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use super::expert::{Feed, FeedPart};
use super::{Ended, How, Job, Learner, Nothing, Watch, fit};
use crate::backbone::Base;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Bank, Mixing, Mixture};
use crate::name::{Name, Site};
use crate::route::trained_gates;

/// One expert's gates `[d_in]` by site, and its losses.
pub type Gated = (BTreeMap<Site, Tensor>, Vec<f64>);

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
    let fresh: Vec<BTreeMap<Site, Var>> = experts
        .iter()
        .map(|expert| {
            let zero = |(site, lora): (&Site, &crate::lora::Lora)| {
                Ok((
                    site.clone(),
                    Var::zeros((1, lora.d_in()), DType::F32, &Device::Cpu)?,
                ))
            };
            expert.loras.iter().map(zero).collect::<Result<_>>()
        })
        .collect::<Result<_>>()?;
    let mut learners: Vec<Learner> = fresh
        .iter()
        .enumerate()
        .map(|(i, vars)| {
            Learner::new(
                vars.values().cloned().collect(),
                how,
                how.total(feed.examples(i)),
            )
        })
        .collect::<Result<_>>()?;
    let part = |feed: &Feed, part: &FeedPart, step: usize| {
        let owners: Vec<Name> = part
            .learners
            .iter()
            .map(|&i| jobs[i].name.clone())
            .collect();
        let mut vectors: BTreeMap<Site, Vec<Tensor>> = BTreeMap::new();
        let sites: std::collections::BTreeSet<&Site> = part
            .learners
            .iter()
            .flat_map(|&i| fresh[i].keys())
            .collect();
        for site in sites {
            for &i in &part.learners {
                let row = match fresh[i].get(site) {
                    Some(var) => var.as_tensor().clone(),
                    None => {
                        let width = part.learners.iter().find_map(|&j| fresh[j].get(site));
                        let like = width.map_or((1, 1), |v| (1, v.elem_count()));
                        Tensor::zeros(like, DType::F32, &Device::Cpu)?
                    }
                };
                vectors.entry(site.clone()).or_default().push(row);
            }
        }
        let loras = part.learners.iter().map(|&i| &experts[i].loras);
        let bank = Arc::new(Bank::new(owners.iter().cloned().zip(loras))?);
        let router = Arc::new(trained_gates(&vectors, owners)?);
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
    fresh
        .iter()
        .zip(learners)
        .map(|(vars, learner)| {
            let gate = |(site, var): (&Site, &Var)| {
                Ok((site.clone(), var.as_tensor().squeeze(0)?.copy()?.detach()))
            };
            Ok((
                vars.iter().map(gate).collect::<Result<_>>()?,
                learner.losses,
            ))
        })
        .collect()
}
