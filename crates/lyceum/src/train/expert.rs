//! Training many LoRA experts in one pass over one frozen base.
//!
//! Each step takes the next batch of every expert still training. In a micro-batch, oracle gates
//! send each example to its own expert and each expert's loss is the mean over its own targets, so
//! the result equals training each expert alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::TrainConfig;
use super::feed::{Dealt, Feed, Job};
use super::fit::{Checkpointer, Learner, Losses, NoCheckpoint, Objective, Outcome, fit};
use crate::backbone::Base;
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::{Lora, LoraConfig};
use crate::mix::{Bank, Decision, Gates, Gating, Input, Mixing, Mixture, Pass};
use crate::name::{Name, Site};
use crate::progress::Progress;
use crate::rng::Rng;

/// Sends each sequence to the expert its pass names.
#[derive(Debug)]
pub(super) struct Own(pub(super) Vec<Name>);

impl Gating for Own {
    fn gates(&self, _: &Site, _: Input<'_>, pass: &Pass<'_>) -> Result<Decision> {
        let own = |task: &Name| {
            let found = self.0.iter().position(|name| name == task);
            let found = found.map(|e| e as u32);
            found.ok_or_else(|| Error::not_found("expert", task.as_str(), []))
        };
        let chosen: Vec<u32> = pass.tasks.iter().map(own).collect::<Result<_>>()?;
        let experts: Vec<u32> = pass.seq_lens.seq_ids().map(|s| chosen[s]).collect();
        let weights = vec![1.0; experts.len()];
        Ok(Gates::known(1, experts, weights).into())
    }
}

/// Variables of one expert, per site (A, B); clones share them.
#[derive(Clone)]
struct Fresh {
    sites: BTreeMap<Site, (Var, Var)>,
}

impl Fresh {
    /// The initial state of `job`: its own adapters, or A uniform in `1/sqrt(3 d_in)` (MTTL's
    /// initialisation) and B zero, seeded by the site alone: experts of one seed begin at the same
    /// point, as MTTL's do when each is trained by a run of its own. Only then can their weights be
    /// compared (MBC's cosines) or averaged factor by factor.
    fn new(base: &Base, job: &Job, lora: &LoraConfig, seed: u64) -> Result<Self> {
        let mut sites = BTreeMap::new();
        for (site, (d_out, d_in)) in base.decoder.config().sites() {
            if lora.adapts(&site) {
                let rank = lora.rank_at(&site);
                let shape = FactorShape { rank, d_in, d_out };
                let (a, b) = match &job.init {
                    Some(init) => begin(init.get(&site), shape)
                        .context(|| format!("expert `{}` at {site}", job.name))?,
                    None => fresh(&site, seed, shape)?,
                };
                sites.insert(site, (Var::from_tensor(&a)?, Var::from_tensor(&b)?));
            }
        }
        if sites.is_empty() {
            let text = format!(
                "no layer of the base matches the targets {:?}",
                lora.targets
            );
            return Err(Error::invalid(text));
        }
        let mut given = job.init.iter().flat_map(BTreeMap::keys);
        if let Some(site) = given.find(|site| !sites.contains_key(*site)) {
            let text = format!("expert `{}` begins at {site}, no target", job.name);
            return Err(Error::Mismatch(text));
        }
        Ok(Fresh { sites })
    }

    fn vars(&self) -> Vec<Var> {
        self.sites
            .values()
            .flat_map(|(a, b)| [a.clone(), b.clone()])
            .collect()
    }

    fn loras(&self, config: &LoraConfig, detach: bool) -> Result<BTreeMap<Site, Lora>> {
        let part = |var: &Var| match detach {
            true => var.as_tensor().copy().map(|t| t.detach()),
            false => Ok(var.as_tensor().clone()),
        };
        let lora = |(site, (a, b)): (&Site, &(Var, Var))| {
            let lora = Lora {
                a: part(a)?,
                b: part(b)?,
                scale: config.scale_at(site),
            };
            Ok((site.clone(), lora))
        };
        self.sites.iter().map(lora).collect()
    }
}

/// The widths of an adapter's factors, A `[rank, d_in]` and B `[d_out, rank]`.
#[derive(Debug, Clone, Copy)]
struct FactorShape {
    rank: usize,
    d_in: usize,
    d_out: usize,
}

/// Fresh factors.
fn fresh(site: &Site, seed: u64, shape: FactorShape) -> Result<(Tensor, Tensor)> {
    let FactorShape { rank, d_in, d_out } = shape;
    let mut rng = Rng::named(seed, site.as_str());
    let a = rng.uniform(rank * d_in, 1.0 / (3.0 * d_in as f64).sqrt());
    let a = Tensor::from_vec(a, (rank, d_in), &Device::Cpu)?;
    let b = Tensor::zeros((d_out, rank), candle_core::DType::F32, &Device::Cpu)?;
    Ok((a, b))
}

/// The factors to begin from, if they have this shape.
fn begin(lora: Option<&Lora>, shape: FactorShape) -> Result<(Tensor, Tensor)> {
    let FactorShape { rank, d_in, d_out } = shape;
    match lora {
        Some(lora) if (lora.rank(), lora.d_out(), lora.d_in()) == (rank, d_out, d_in) => {
            Ok((lora.a.clone(), lora.b.clone()))
        }
        _ => Err(Error::Mismatch(format!(
            "there must be an adapter of (rank, d_out, d_in) ({rank}, {d_out}, {d_in}) to begin \
             from"
        ))),
    }
}

/// The adapters of many experts, each learning from its own rows.
struct Adapters<'a> {
    base: &'a Arc<Base>,
    jobs: &'a [Job],
    lora: &'a LoraConfig,
    fresh: Vec<Fresh>,
    feed: Feed,
}

impl Objective for Adapters<'_> {
    type Rows = Vec<Vec<usize>>;

    fn skip(&mut self, learner: usize, steps: usize) {
        self.feed.skip(learner, steps);
    }

    fn deal(&mut self, _: usize, active: &[usize]) -> Result<Vec<Dealt>> {
        Ok(self.feed.deal(active))
    }

    fn losses(&self, batch: &Dealt, step: usize) -> Result<Losses> {
        let learners = batch.learners.iter();
        let names: Vec<Name> = { learners.clone() }
            .map(|&i| self.jobs[i].name.clone())
            .collect();
        let loras: Vec<BTreeMap<Site, Lora>> = learners
            .map(|&i| self.fresh[i].loras(self.lora, false))
            .collect::<Result<_>>()?;
        let mixture = Mixture {
            bank: Arc::new(Bank::new(names.iter().cloned().zip(&loras))?),
            router: Arc::new(Own(names)),
            mixing: Mixing::Outputs,
        };
        self.feed.losses(self.base, batch, &mixture, step)
    }
}

/// Experts in training.
pub(super) struct Fit<'a> {
    adapters: Adapters<'a>,
    pub(super) learners: Vec<Learner>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(
        base: &'a Arc<Base>,
        jobs: &'a [Job],
        lora: &'a LoraConfig,
        config: &TrainConfig,
    ) -> Result<Self> {
        config.check()?;
        lora.check()?;
        let feed = Feed::new(base, jobs, config)?;
        let fresh: Vec<Fresh> = jobs
            .iter()
            .map(|job| Fresh::new(base, job, lora, config.seed))
            .collect::<Result<_>>()?;
        let vars = fresh.iter().map(Fresh::vars);
        let learners = feed.learners(vars, config);
        let adapters = Adapters {
            base,
            jobs,
            lora,
            fresh,
            feed,
        };
        Ok(Fit { adapters, learners })
    }

    /// Trains until all are done or `progress` stops the run.
    pub(super) fn run(
        &mut self,
        checkpointer: &mut dyn Checkpointer,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        fit(
            &mut self.learners,
            &mut self.adapters,
            checkpointer,
            progress,
        )
    }

    /// The maker of experts from learners.
    pub(super) fn maker(&self) -> Maker<'a> {
        Maker {
            base: self.adapters.base,
            jobs: self.adapters.jobs,
            lora: self.adapters.lora,
            fresh: self.adapters.fresh.clone(),
        }
    }
}

/// Makes experts of learners.
pub(super) struct Maker<'a> {
    base: &'a Arc<Base>,
    jobs: &'a [Job],
    lora: &'a LoraConfig,
    fresh: Vec<Fresh>,
}

impl Maker<'_> {
    /// The expert that learner `i` is by now.
    pub(super) fn expert(&self, i: usize, learner: &Learner) -> Result<Expert> {
        let job = &self.jobs[i];
        let card = Card {
            name: job.name.clone(),
            base: Some(self.base.fingerprint.clone()),
            base_family: Some(self.base.family_fingerprint.clone()),
            base_name: self.base.name.clone(),
            tasks: job.tasks.clone(),
            lora: self.lora.clone(),
            origin: job.origin.clone(),
            losses: learner.losses().to_vec(),
            weights: String::new(),
        };
        Expert::new(card, self.fresh[i].loras(self.lora, true)?)
    }
}

/// Trains all `jobs` in one pass; the experts come back in the order of the jobs, each with its
/// losses per step. Training into a library is [`Trainer`](super::Trainer)'s.
///
/// # Errors
/// When a setting is out of range, a job has no example, or a loss is not finite;
/// [`Error::Stopped`] when `progress` stops the run before its last step, and then nothing is
/// kept.
pub fn experts(
    base: &Arc<Base>,
    jobs: &[Job],
    lora: &LoraConfig,
    config: &TrainConfig,
    progress: &mut dyn Progress,
) -> Result<Vec<(Expert, Vec<f64>)>> {
    let mut fit = Fit::new(base, jobs, lora, config)?;
    let outcome = fit.run(&mut NoCheckpoint, progress)?;
    if let Some((done, total)) = outcome.unfinished() {
        let text = format!("stopped after step {done} of {total}; nothing of it is kept");
        return Err(Error::Stopped(text));
    }
    let maker = fit.maker();
    { fit.learners.iter().enumerate() }
        .map(|(i, learner)| Ok((maker.expert(i, learner)?, learner.losses().to_vec())))
        .collect()
}
