//! Training many LoRA experts in one pass over one frozen base.
//!
//! Each step takes the next batch of every expert still training. Batches are packed into parts of
//! bounded size; in a part, oracle gates send each example to its own expert and each expert's
//! loss is the mean over its own targets, so the result equals training each expert alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::{Batches, Ended, How, Keep, Learner, Nothing, Part, Watch, fit};
use crate::backbone::Base;
use crate::data::{Example, Tokens};
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::{Lora, LoraConfig};
use crate::mix::{Bank, Gates, Mixing, Mixture, Pass, Router};
use crate::model::{Batch, losses};
use crate::name::{Name, Site};
use crate::rng::Rng;

/// Most tokens in one part of a step; bounds memory.
const PART_TOKENS: usize = 6144;

/// One expert to train.
#[derive(Debug, Clone)]
pub struct Job {
    /// The expert's name; its data order is seeded by it.
    pub name: Name,
    /// The tasks it stands for.
    pub tasks: Vec<Name>,
    /// What it learns from.
    pub examples: Vec<Example>,
    /// What to remember about its training.
    pub origin: serde_json::Value,
    /// Adapters to begin from; freshly drawn ones when absent.
    pub init: Option<BTreeMap<Site, Lora>>,
    /// The batches, as indices into `examples`, in this order and then again from the first; a
    /// seeded shuffle when absent.
    pub order: Option<Vec<Vec<usize>>>,
}

impl Job {
    /// An expert trained on `examples` from a fresh start, in a seeded order.
    pub fn new(name: Name, tasks: Vec<Name>, examples: Vec<Example>) -> Self {
        Job {
            name,
            tasks,
            examples,
            origin: serde_json::Value::Null,
            init: None,
            order: None,
        }
    }

    fn batches(&self, how: &How) -> Result<Batches> {
        let (n, name) = (self.examples.len(), &self.name);
        match &self.order {
            None => Ok(Batches::new(n, how.batch, how.seed, name.as_str())),
            Some(order) => Batches::given(order.clone(), n).context(|| format!("expert `{name}`")),
        }
    }
}

/// Sends each sequence to the expert its pass names.
#[derive(Debug)]
pub(super) struct Own(pub(super) Vec<Name>);

impl Router for Own {
    fn reads_input(&self) -> bool {
        false
    }

    fn gates(&self, _: &Site, _: &[f32], pass: &Pass<'_>) -> Result<Gates> {
        let own = |task: &Name| {
            let found = self.0.iter().position(|name| name == task);
            let found = found.map(|e| e as u32);
            found.ok_or_else(|| Error::not_found("expert", task.as_str(), []))
        };
        let chosen: Vec<u32> = pass.tasks.iter().map(own).collect::<Result<_>>()?;
        let experts: Vec<u32> = pass.segments.owners().map(|s| chosen[s]).collect();
        let weights = vec![1.0; experts.len()];
        Ok(Gates::known(1, experts, weights))
    }
}

/// Tokenised data and the order it comes in, for several learners at once.
pub(crate) struct Feed {
    names: Vec<Name>,
    tokens: Vec<Vec<Tokens>>,
    order: Vec<Batches>,
    recompute: bool,
}

impl Feed {
    pub(super) fn new(base: &Base, jobs: &[Job], how: &How) -> Result<Self> {
        let longest = how
            .max_input
            .min(base.decoder.config().max_position_embeddings);
        let (mut names, mut tokens, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            if job.examples.is_empty() {
                return Err(Error::invalid(format!(
                    "expert `{}` has no example",
                    job.name
                )));
            }
            let rows = job
                .examples
                .iter()
                .map(|e| base.tokenizer.training(e, longest));
            tokens.push(rows.collect::<Result<Vec<_>>>()?);
            order.push(job.batches(how)?);
            names.push(job.name.clone());
        }
        Ok(Feed {
            names,
            tokens,
            order,
            recompute: how.recompute,
        })
    }

    pub(super) fn examples(&self, learner: usize) -> usize {
        self.tokens[learner].len()
    }

    /// Passes over the first `batches` batches of `learner`: it saw them before.
    pub(super) fn skip(&mut self, learner: usize, batches: usize) {
        for _ in 0..batches {
            let _ = self.order[learner].next_batch();
        }
    }

    /// The next batches of the `active` learners, grouped into parts of bounded size.
    pub(super) fn parts(&mut self, active: &[usize]) -> Vec<FeedPart> {
        let mut parts: Vec<FeedPart> = Vec::new();
        let mut room = 0;
        for &i in active {
            let chosen = self.order[i].next_batch();
            let size: usize = chosen.iter().map(|&j| self.tokens[i][j].ids.len()).sum();
            if size > room || parts.is_empty() {
                parts.push(FeedPart {
                    learners: Vec::new(),
                    chosen: Vec::new(),
                });
                room = PART_TOKENS;
            }
            room = room.saturating_sub(size);
            if let Some(part) = parts.last_mut() {
                part.learners.push(i);
                part.chosen.push(chosen);
            }
        }
        parts
    }

    fn batch(&self, part: &FeedPart) -> Batch {
        let one = |(&i, chosen): (&usize, &Vec<usize>)| {
            let name = self.names[i].clone();
            let rows = chosen.iter().map(move |&j| (i, j));
            rows.map(move |(i, j)| (&self.tokens[i][j], name.clone()))
                .collect::<Vec<_>>()
        };
        Batch::new(part.learners.iter().zip(&part.chosen).flat_map(one))
    }

    /// The mean loss of each learner of `part`, `[n]`, through `mixture`.
    pub(super) fn losses(
        &self,
        base: &Base,
        part: &FeedPart,
        mixture: &Mixture,
        step: usize,
    ) -> Result<Part> {
        let batch = self.batch(part);
        let each = losses(&base.decoder, &batch, Some(mixture), None, self.recompute)?; // [n]
        let owner = |target: &usize| {
            let name = &batch.tasks[*target];
            part.learners
                .iter()
                .position(|&i| self.names[i] == *name)
                .unwrap_or(0)
        };
        let owners: Vec<usize> = batch.owners.iter().map(owner).collect();
        self.check_finite(&each, &batch, part, step)?;
        let mut counts = vec![0f32; part.learners.len()];
        owners.iter().for_each(|&o| counts[o] += 1.0);
        let n = owners.len();
        let mut weights = vec![0f32; counts.len() * n];
        for (target, &o) in owners.iter().enumerate() {
            weights[o * n + target] = 1.0 / counts[o];
        }
        let weights = Tensor::from_vec(weights, (counts.len(), n), each.device())?;
        let losses = weights.matmul(&each.unsqueeze(1)?)?.squeeze(1)?;
        Ok(Part {
            learners: part.learners.clone(),
            losses,
            tokens: batch.tokens.len(),
        })
    }

    fn check_finite(
        &self,
        each: &Tensor,
        batch: &Batch,
        part: &FeedPart,
        step: usize,
    ) -> Result<()> {
        let values = each.to_vec1::<f32>()?;
        let Some(bad) = values.iter().position(|x| !x.is_finite()) else {
            return Ok(());
        };
        let sequence = batch.owners[bad];
        let rows = part.learners.iter().zip(&part.chosen);
        let row = rows
            .flat_map(|(&i, chosen)| chosen.iter().map(move |&j| (i, j)))
            .nth(sequence);
        let (learner, example) = row.unwrap_or_default();
        Err(Error::invalid(format!(
            "the loss of expert `{}` is not finite at step {}, example {example} of its training \
             rows; lower the learning rate",
            self.names[learner],
            step + 1
        )))
    }
}

/// Some learners' next batches, packed together.
#[derive(Debug, Clone)]
pub(crate) struct FeedPart {
    pub(super) learners: Vec<usize>,
    chosen: Vec<Vec<usize>>,
}

/// Variables of one expert, per site (A, B); clones share them.
#[derive(Clone)]
struct Fresh {
    sites: BTreeMap<Site, (Var, Var)>,
}

impl Fresh {
    /// What `job` begins from: its own adapters, or A uniform in `1/sqrt(3 d_in)` (MTTL's
    /// initialisation) and B zero, seeded by the site alone: experts of one seed begin at the same
    /// point, as MTTL's do when each is trained by a run of its own. Only then can their weights be
    /// compared (MBC's cosines) or averaged factor by factor.
    fn new(base: &Base, job: &Job, lora: &LoraConfig, seed: u64) -> Result<Self> {
        let mut sites = BTreeMap::new();
        for (site, (d_out, d_in)) in base.decoder.config().sites() {
            if lora.adapts(&site) {
                let rank = lora.rank_at(&site);
                let (a, b) = match &job.init {
                    Some(init) => begin(init.get(&site), (rank, d_out, d_in))
                        .context(|| format!("expert `{}` at {site}", job.name))?,
                    None => fresh(&site, seed, (rank, d_out, d_in))?,
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

/// Fresh factors `[r, d_in]`, `[d_out, r]`.
fn fresh(site: &Site, seed: u64, shape: (usize, usize, usize)) -> Result<(Tensor, Tensor)> {
    let (rank, d_out, d_in) = shape;
    let mut rng = Rng::named(seed, site.as_str());
    let a = rng.uniform(rank * d_in, 1.0 / (3.0 * d_in as f64).sqrt());
    let a = Tensor::from_vec(a, (rank, d_in), &Device::Cpu)?;
    let b = Tensor::zeros((d_out, rank), candle_core::DType::F32, &Device::Cpu)?;
    Ok((a, b))
}

/// The factors to begin from, if they have this shape.
fn begin(lora: Option<&Lora>, shape: (usize, usize, usize)) -> Result<(Tensor, Tensor)> {
    match lora {
        Some(lora) if (lora.rank(), lora.d_out(), lora.d_in()) == shape => {
            Ok((lora.a.clone(), lora.b.clone()))
        }
        _ => Err(Error::Mismatch(format!(
            "there must be an adapter of (rank, d_out, d_in) {shape:?} to begin from"
        ))),
    }
}

/// Experts in training.
pub(super) struct Fit<'a> {
    base: &'a Arc<Base>,
    jobs: &'a [Job],
    lora: &'a LoraConfig,
    fresh: Vec<Fresh>,
    feed: Feed,
    pub(super) learners: Vec<Learner>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(
        base: &'a Arc<Base>,
        jobs: &'a [Job],
        lora: &'a LoraConfig,
        how: &How,
    ) -> Result<Self> {
        how.check()?;
        lora.check()?;
        let feed = Feed::new(base, jobs, how)?;
        let fresh: Vec<Fresh> = jobs
            .iter()
            .map(|job| Fresh::new(base, job, lora, how.seed))
            .collect::<Result<_>>()?;
        let learners: Vec<Learner> = fresh
            .iter()
            .enumerate()
            .map(|(i, f)| Learner::new(f.vars(), how, how.total(feed.examples(i))))
            .collect::<Result<_>>()?;
        Ok(Fit {
            base,
            jobs,
            lora,
            fresh,
            feed,
            learners,
        })
    }

    /// Trains until all are done or the watch says stop.
    pub(super) fn run(&mut self, watch: &mut dyn Watch, keep: &mut dyn Keep) -> Result<Ended> {
        let (base, jobs, lora, fresh) = (self.base, self.jobs, self.lora, &self.fresh);
        let part = |feed: &Feed, part: &FeedPart, step: usize| {
            let names: Vec<Name> = part
                .learners
                .iter()
                .map(|&i| jobs[i].name.clone())
                .collect();
            let loras: Vec<BTreeMap<Site, Lora>> = part
                .learners
                .iter()
                .map(|&i| fresh[i].loras(lora, false))
                .collect::<Result<_>>()?;
            let bank = Bank::new(names.iter().cloned().zip(&loras))?;
            let router = Arc::new(Own(names));
            let mixture = Mixture {
                bank: Arc::new(bank),
                router,
                mixing: Mixing::Outputs,
            };
            feed.losses(base, part, &mixture, step)
        };
        fit(&mut self.learners, &mut self.feed, watch, keep, part)
    }

    /// What makes experts of learners.
    pub(super) fn maker(&self) -> Maker<'a> {
        Maker {
            base: self.base,
            jobs: self.jobs,
            lora: self.lora,
            fresh: self.fresh.clone(),
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
            losses: learner.losses.clone(),
            weights: String::new(),
        };
        Expert::new(card, self.fresh[i].loras(self.lora, true)?)
    }
}

/// Trains all `jobs` in one pass; the experts come back in the order of the jobs, each with its
/// losses per step.
///
/// # Errors
/// When a setting is out of range, a job has no example, or a loss is not finite;
/// [`Error::Stopped`] when the watch says stop, and then nothing is kept.
pub fn experts(
    base: &Arc<Base>,
    jobs: &[Job],
    lora: &LoraConfig,
    how: &How,
    watch: &mut dyn Watch,
) -> Result<Vec<(Expert, Vec<f64>)>> {
    let mut fit = Fit::new(base, jobs, lora, how)?;
    if let Ended::At { step, steps } = fit.run(watch, &mut Nothing)? {
        let text = format!("stopped after step {step} of {steps}; nothing of it is kept");
        return Err(Error::Stopped(text));
    }
    let maker = fit.maker();
    { fit.learners.into_iter().enumerate() }
        .map(|(i, learner)| Ok((maker.expert(i, &learner)?, learner.losses)))
        .collect()
}
