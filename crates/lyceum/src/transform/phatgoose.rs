//! PhatGOOSE gates (arXiv:2402.05859), trained for every expert at once and persisted.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::artifact::Artifact;
use crate::backbone::Base;
use crate::data::{Dataset, Split};
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::library::Library;
use crate::name::Name;
use crate::progress::Progress;
use crate::train::{GateTraining, Job, Steps, TrainConfig};

/// Settings of gate training; the defaults are the tutorial's.
///
/// ```
/// use lyceum::transform::Phatgoose;
///
/// let config = Phatgoose::default().steps(100).lr(5e-4);
/// assert_eq!((config.steps, config.batch), (100, 4));
/// assert!(config.warmup(2.0).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Phatgoose {
    /// Updates per expert.
    pub steps: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Share of the steps over which the rate rises from 0.
    pub warmup: f64,
    /// Examples per step.
    pub batch: usize,
    /// Longest input in tokens.
    pub max_input: usize,
    /// Seed of the data order.
    pub seed: u64,
    /// Folder of checkpoints, from which an interrupted training continues bit for bit; none are
    /// kept when absent. Gates do not remember it.
    #[serde(skip)]
    pub checkpoints: Option<PathBuf>,
}

impl Default for Phatgoose {
    fn default() -> Self {
        Phatgoose {
            steps: 50,
            lr: 1e-3,
            warmup: 0.0,
            batch: 4,
            max_input: 1024,
            seed: 42,
            checkpoints: None,
        }
    }
}

impl Phatgoose {
    /// Sets the updates per expert.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Sets the peak learning rate.
    #[must_use]
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// Sets the share of the steps, 0 to 1, over which the rate rises from 0.
    #[must_use]
    pub fn warmup(mut self, share: f64) -> Self {
        self.warmup = share;
        self
    }

    /// Sets the examples per step.
    #[must_use]
    pub fn batch(mut self, examples: usize) -> Self {
        self.batch = examples;
        self
    }

    /// Sets the longest input, in tokens.
    #[must_use]
    pub fn max_input(mut self, tokens: usize) -> Self {
        self.max_input = tokens;
        self
    }

    /// Sets the seed of the data order.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the folder of checkpoints.
    #[must_use]
    pub fn checkpoints(mut self, dir: impl Into<PathBuf>) -> Self {
        self.checkpoints = Some(dir.into());
        self
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) naming the first value out of range.
    pub fn check(&self) -> Result<()> {
        let training = self.training().check();
        training.context(|| "phatgoose".to_owned())
    }

    /// The same as settings of the optimisation loop.
    fn training(&self) -> TrainConfig {
        TrainConfig::default()
            .lr(self.lr)
            .batch(self.batch)
            .epochs(1)
            .steps(self.steps)
            .warmup(self.warmup)
            .max_input(self.max_input)
            .seed(self.seed)
    }
}

/// Trains the gates of every expert of `library` (merged ones count where they are asked for, see
/// [`Library::members`]) that has none under this specification or has changed since,
/// on the training rows of its tasks in `data`. Returns the names derived now.
///
/// ```no_run
/// use std::sync::Arc;
/// use lyceum::prelude::*;
/// use lyceum::transform::Phatgoose;
///
/// let base = Arc::new(lyceum::assets::base(Precision::F32)?);
/// let (library, data) = (Library::open("experts")?, lyceum::assets::tasks()?);
/// let config = Phatgoose::default().steps(100);
/// transform::phatgoose(&base, &library, &data, &config, &mut NoProgress)?;
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When a task has no rows, an expert belongs to another base, or a loss is not finite;
/// [`Error::Stopped`] when `progress` stops the run, whose steps are then kept in
/// [`Phatgoose::checkpoints`].
pub fn phatgoose(
    base: &Arc<Base>,
    library: &Library,
    data: &Dataset,
    how: &Phatgoose,
    progress: &mut dyn Progress,
) -> Result<Vec<Name>> {
    how.check()?;
    let kind = Name::new("phatgoose")?;
    let spec = json!({ "transform": "phatgoose", "how": how, "data": data.fingerprint() });
    let (mut experts, mut jobs) = (Vec::new(), Vec::new());
    let library = &library.chosen()?;
    for name in library.names()? {
        let kept = library.artifact_of(&kind, &name)?;
        if kept.is_some_and(|artifact| artifact.spec == spec) {
            continue;
        }
        let expert = library.expert(&name)?;
        expert.check_base(&base.host())?;
        let tasks = expert.card.tasks.clone();
        let examples = data.select(&tasks, Split::Train)?;
        jobs.push(Job::new(name.clone(), tasks, examples));
        experts.push(expert);
    }
    if experts.is_empty() {
        return Ok(Vec::new());
    }
    let names = jobs.iter().map(|job| job.name.clone()).collect();
    let key = key(base, library, &experts, &spec);
    let mut steps = Steps::new(names, how.checkpoints.as_deref(), &key);
    let config = how.training();
    let training = GateTraining {
        base,
        experts: &experts,
        jobs: &jobs,
        config: &config,
    };
    let trained = training.run(&mut steps, progress)?;
    let made: Vec<Artifact> = { experts.iter().zip(trained.gates) }
        .map(|(expert, (vectors, _))| Artifact {
            kind: kind.clone(),
            spec: spec.clone(),
            expert: expert.card.name.clone(),
            made_from: expert.fingerprint().to_owned(),
            vectors,
        })
        .collect();
    put(library, &made)?;
    steps.delete();
    if trained.stopped {
        let text = "stopped, but there was nothing left to do: all gates are finished and kept";
        return Err(Error::Stopped(text.into()));
    }
    Ok(made.into_iter().map(|artifact| artifact.expert).collect())
}

/// Tells this training of gates apart from every other; names its checkpoint.
fn key(base: &Base, library: &Library, experts: &[Expert], spec: &Value) -> Value {
    let experts: Vec<(&Name, &str, &[Name])> = { experts.iter() }
        .map(|expert| {
            (
                &expert.card.name,
                expert.fingerprint(),
                &expert.card.tasks[..],
            )
        })
        .collect();
    json!({
        "library": library.place(),
        "experts": experts,
        "spec": spec,
        "base": base.fingerprint,
        "device": format!("{:?}", base.decoder.device().location()),
        "by": concat!("lyceum ", env!("CARGO_PKG_VERSION")),
    })
}

/// Commits `made` as one version.
fn put(library: &Library, made: &[Artifact]) -> Result<()> {
    let mut batch = library.batch()?;
    for artifact in made {
        batch.put_artifact(artifact)?;
    }
    match batch.commit() {
        // Training took long: what nobody else touched meanwhile is kept, then the conflict told.
        Err(Error::Conflict(_)) => {
            let kept: Vec<Result<()>> = { made.iter() }
                .map(|artifact| library.put_artifact(artifact))
                .collect();
            kept.into_iter().collect()
        }
        other => other.map(|_| ()),
    }
}
