//! Training into a library: each expert is committed as soon as it is finished, and a checkpoint
//! holds what is not.

use super::expert::{Fit, Maker};
use super::feed::Job;
use super::fit::{Checkpointer, Learner, Outcome};
use super::plan::{Differing, Plan};
use super::resume::{Steps, count};
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::library::{Library, Since};
use crate::name::Name;
use crate::progress::Progress;
use crate::store::Put;

/// The result of [`Trainer`](super::Trainer): the experts trained now, and those that were there.
///
/// ```no_run
/// # fn main() -> lyceum::Result<()> {
/// # let base = std::sync::Arc::new(lyceum::assets::base(lyceum::backbone::Precision::F32)?);
/// # let data = lyceum::assets::tasks()?;
/// # let library = lyceum::library::Library::create("experts")?;
/// use lyceum::progress::NoProgress;
/// use lyceum::train::Trainer;
///
/// let trained = Trainer::new(&base).each_task(&data, &library, &mut NoProgress)?;
/// for expert in &trained.experts {
///     println!("{}: loss {:?}", expert.name, expert.losses.last());
/// }
/// println!("{} were there already", trained.already.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Trained {
    /// The experts trained now, in the order they were asked for.
    pub experts: Vec<TrainedExpert>,
    /// Experts that were there already with the same specification.
    pub already: Vec<Name>,
    /// The library's version afterwards.
    pub version: u64,
    /// Its version before, which keeps what was replaced.
    pub before: u64,
}

impl Trained {
    /// Returns the names of the experts trained now, in the order they were asked for.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.experts.iter().map(|expert| &expert.name)
    }
}

/// One expert trained now.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrainedExpert {
    /// Its name.
    pub name: Name,
    /// Its losses, step by step, in nats per token.
    pub losses: Vec<f64>,
    /// Steps of one pass over its rows.
    pub pass: usize,
    /// The differences from the expert it replaced, if it replaced one.
    pub replaced: Option<Differing>,
}

/// A loss this much above the first is no chance of one batch.
const CHANCE: f64 = 1.25;

impl TrainedExpert {
    /// Its mean loss where it began and where it ended, if it ended above: it was made worse. Two
    /// passes over the same rows are compared as they are; the first steps alone, whose batches are
    /// others, by a margin.
    pub fn rose(&self) -> Option<(f64, f64)> {
        let n = self.losses.len();
        let few = (n / 10).clamp(1, 20);
        let passes = n / self.pass.max(1);
        let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
        let ends = |few: usize| (mean(&self.losses[..few]), mean(&self.losses[n - few..]));
        let (first, last) = match n {
            0 | 1 => return None,
            _ if passes >= 2 => ends(self.pass),
            _ => ends(few),
        };
        let begun = ends(few).0;
        match passes >= 2 && last > first {
            true => Some((first, last)),
            false => (last > CHANCE * begun).then_some((begun, last)),
        }
    }
}

impl Plan<'_> {
    /// Trains what is missing, all in one pass, and what differs over what is there. Each expert is
    /// committed as soon as it has taken its steps. The steps of the others are kept in the
    /// trainer's folder of checkpoints every few seconds, where a training of the same things goes
    /// on from them, and ends as it would have without a break, bit by bit; they are deleted at
    /// the end.
    ///
    /// # Errors
    /// When an expert would have to be replaced or bases mixed and the trainer may not, a loss is
    /// not finite, another writer changed one of these experts meanwhile (the others are kept), or
    /// the library cannot be written; [`Error::Stopped`] when `progress` stops the run.
    pub fn run(self, progress: &mut dyn Progress) -> Result<Trained> {
        self.agreed()?;
        let (trainer, jobs) = (self.trainer, &self.jobs);
        if jobs.is_empty() {
            return Ok(self.trained(&[]));
        }
        let mut fit = Fit::new(&trainer.base, jobs, &trainer.lora, &trainer.config)?;
        let mut keeper = self.keeper(fit.maker());
        for differing in &self.differing {
            progress.message(&format!(
                "`{}` is trained again over one that was made otherwise: {}; version {} keeps that \
                 one",
                differing.name,
                differing.said(),
                self.version
            ));
        }
        keeper.resume(&mut fit.learners, progress)?;
        let outcome = fit.run(&mut keeper, progress)?;
        keeper.steps.report(progress);
        if let Some((done, total)) = outcome.unfinished() {
            return Err(keeper.stopped(done, total));
        }
        if let Some(error) = keeper.refused.take() {
            return Err(error).context(|| keeper.left());
        }
        keeper.steps.delete();
        if let Outcome::Stopped { .. } = outcome {
            let text = "stopped, but there was nothing left to do: every expert is finished and \
                        kept";
            return Err(Error::Stopped(text.into()));
        }
        let trained = self.trained(&fit.learners);
        for expert in &trained.experts {
            if let Some((first, last)) = expert.rose() {
                progress.message(&format!(
                    "warning: the loss of `{}` ended above where it began ({first:.3} -> \
                     {last:.3}, means over steps); a lower learning rate may help",
                    expert.name
                ));
            }
        }
        Ok(trained)
    }

    fn keeper<'a>(&'a self, maker: Maker<'a>) -> Keeper<'a> {
        let names: Vec<Name> = self.jobs.iter().map(|job| job.name.clone()).collect();
        let replace = |name: &Name| self.differing.iter().any(|d| d.name == *name);
        Keeper {
            library: &self.library,
            since: &self.since,
            replace: names.iter().map(replace).collect(),
            committed: vec![false; names.len()],
            maker,
            steps: Steps::new(names, self.trainer.checkpoints.as_deref(), &self.key),
            refused: None,
        }
    }

    fn trained(&self, learners: &[Learner]) -> Trained {
        let expert = |(job, learner): (&Job, &Learner)| {
            let replaced = self.differing.iter().find(|d| d.name == job.name);
            TrainedExpert {
                name: job.name.clone(),
                losses: learner.losses().to_vec(),
                pass: job.examples.len().div_ceil(self.trainer.config.batch),
                replaced: replaced.cloned(),
            }
        };
        Trained {
            experts: self.jobs.iter().zip(learners).map(expert).collect(),
            already: self.already.clone(),
            version: self.library.version(),
            before: self.version,
        }
    }
}

/// Commits experts as they end, and keeps the steps of the others.
struct Keeper<'a> {
    library: &'a Library,
    since: &'a Since,
    /// Which of them may replace what is there.
    replace: Vec<bool>,
    committed: Vec<bool>,
    maker: Maker<'a>,
    steps: Steps,
    /// The first refusal of an expert that another writer changed meanwhile.
    refused: Option<Error>,
}

impl Checkpointer for Keeper<'_> {
    fn stepped(&mut self, learners: &[Learner], finished: &[usize]) -> Result<()> {
        // First the checkpoint: a run that is killed between the two commits these from it, and
        // the others go on from a step at which these were no longer beside them.
        if !finished.is_empty() || self.steps.due() {
            self.write(learners);
        }
        self.commit(learners, finished)
    }

    fn stopping(&mut self, learners: &[Learner]) -> Result<()> {
        self.write(learners);
        Ok(())
    }
}

impl Keeper<'_> {
    /// Brings the learners to where they were, and commits those that had finished.
    fn resume(&mut self, learners: &mut [Learner], progress: &mut dyn Progress) -> Result<()> {
        if !self.steps.resume(learners, progress) {
            return Ok(());
        }
        let finished = (0..learners.len()).filter(|&i| learners[i].finished());
        self.commit(learners, &finished.collect::<Vec<_>>())
    }

    /// Writes the learners that are not in the library yet.
    fn write(&mut self, learners: &[Learner]) {
        self.steps.write(learners, |i| !self.committed[i]);
    }

    /// Commits the learners `finished` as one version. One that another writer changed meanwhile is
    /// left out and told at the end.
    fn commit(&mut self, learners: &[Learner], finished: &[usize]) -> Result<()> {
        if finished.is_empty() {
            return Ok(());
        }
        let made: Vec<(usize, Expert)> = { finished.iter() }
            .map(|&i| Ok((i, self.maker.expert(i, &learners[i])?)))
            .collect::<Result<_>>()?;
        match self.add(&made) {
            Ok(()) => {}
            Err(Error::Conflict(_) | Error::Exists { .. }) => {
                for one in &made {
                    match self.add(std::slice::from_ref(one)) {
                        Err(error @ (Error::Conflict(_) | Error::Exists { .. })) => {
                            self.refused.get_or_insert(error);
                        }
                        other => other.context(|| self.left())?,
                    }
                }
            }
            other => other.context(|| self.left())?,
        }
        Ok(())
    }

    fn add(&mut self, made: &[(usize, Expert)]) -> Result<()> {
        let mut batch = self.library.batch_since(self.since)?;
        for (i, expert) in made {
            let how = match self.replace[*i] {
                true => Put::Replace,
                false => Put::New,
            };
            batch.add(expert, how)?;
        }
        batch.commit()?;
        for (i, _) in made {
            self.committed[*i] = true;
        }
        Ok(())
    }

    /// Says where the state of the experts that are not in the library yet is kept.
    fn left(&self) -> String {
        let open = self.committed.iter().filter(|committed| !**committed);
        self.steps.left(&count(open.count()))
    }

    fn stopped(&self, done: usize, total: usize) -> Error {
        let kept = self.steps.names().iter().zip(&self.committed);
        let kept: Vec<&str> = { kept.filter(|(_, committed)| **committed) }
            .map(|(name, _)| name.as_str())
            .collect();
        let kept = match kept.as_slice() {
            [] => String::new(),
            kept => format!(
                "{} finished before and in {} (version {}): {}; ",
                count(kept.len()),
                self.library.uri(),
                self.library.version(),
                kept.join(", ")
            ),
        };
        let left = self.left();
        Error::Stopped(format!(
            "stopped after step {done} of {total}; {kept}{left}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rose(pass: usize, losses: &[f64]) -> bool {
        let expert = TrainedExpert {
            name: Name::new("x").unwrap(),
            losses: losses.to_vec(),
            pass,
            replaced: None,
        };
        expert.rose().is_some()
    }

    #[test]
    fn a_run_that_made_it_worse_is_told_from_a_hard_last_batch() {
        // Steps of one pass differ by their rows.
        assert!(!rose(6, &[2.0, 1.0, 2.2, 0.9, 1.8, 2.1]));
        assert!(rose(6, &[0.6, 1.0, 5.0, 9.0, 11.0, 10.3]));
        // Passes do not.
        assert!(!rose(3, &[8.4, 9.1, 8.6, 8.0, 8.3, 8.9]));
        assert!(rose(3, &[8.4, 9.1, 8.6, 8.5, 9.2, 8.7]));
        // It rose within the first pass and stayed there.
        assert!(rose(4, &[5.8, 6.6, 16.7, 13.6, 10.0, 9.6, 11.0, 10.3]));
        // It rose and came back.
        assert!(!rose(4, &[5.3, 12.7, 9.1, 9.4, 5.0, 4.1, 5.6, 5.0]));
        assert!(!rose(1, &[1.0]) && !rose(1, &[]));
    }
}
