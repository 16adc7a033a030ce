//! Training into a library: each expert is committed as soon as it is finished, and a checkpoint
//! holds what is not.

use std::path::Path;

use super::checkpoint::Checkpoint;
use super::expert::{Fit, Maker};
use super::plan::{Differing, Plan};
use super::{Ended, Keep, Learner, Watch};
use crate::error::{Context, Error, Result};
use crate::expert::Expert;
use crate::library::{Library, Since};
use crate::name::Name;
use crate::store::Put;

/// What a training did.
#[derive(Debug, Clone, PartialEq)]
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

/// One expert trained now.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedExpert {
    /// Its name.
    pub name: Name,
    /// Its losses, step by step.
    pub losses: Vec<f64>,
    /// Steps of one pass over its rows.
    pub pass: usize,
    /// What it differs in from the expert it replaced, if it replaced one.
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
    /// committed as soon as it has taken its steps. The steps of the others are kept below
    /// `checkpoints` every few seconds, where a training of the same things goes on from them, and
    /// ends as it would have without a break, bit by bit; they are deleted at the end.
    ///
    /// # Errors
    /// When [`Plan::replace`] or [`Plan::mixed_bases`] would have to be set, a loss is not finite,
    /// another writer changed one of these experts meanwhile (the others are kept), or the library
    /// cannot be written; [`Error::Stopped`] when the watch says stop.
    pub fn run(self, checkpoints: Option<&Path>, watch: &mut dyn Watch) -> Result<Trained> {
        self.agreed()?;
        let (training, jobs) = (self.training, &self.jobs);
        if jobs.is_empty() {
            return Ok(self.trained(&[]));
        }
        let mut fit = Fit::new(training.base, jobs, training.lora, training.how)?;
        let mut keeper = Keeper {
            library: &self.library,
            since: &self.since,
            names: jobs.iter().map(|job| &job.name).collect(),
            replace: { jobs.iter() }
                .map(|job| self.differing.iter().any(|d| d.name == job.name))
                .collect(),
            committed: vec![false; jobs.len()],
            maker: fit.maker(),
            checkpoint: checkpoints.map(|root| Checkpoint::new(root, &self.what)),
            unkept: None,
            refused: None,
        };
        for differing in &self.differing {
            watch.say(&format!(
                "`{}` is trained again over one that was made otherwise: {}; version {} keeps that \
                 one",
                differing.name,
                differing.said(),
                self.version
            ));
        }
        keeper.resume(&mut fit.learners, watch)?;
        let ended = fit.run(watch, &mut keeper)?;
        keeper.tell(watch);
        if let Ended::At { step, steps } = ended {
            return Err(keeper.stopped(step, steps));
        }
        if let Some(error) = keeper.refused.take() {
            return Err(error).context(|| keeper.left());
        }
        if let Some(checkpoint) = &keeper.checkpoint {
            checkpoint.delete();
        }
        if watch.stopped() {
            let text = "stopped, but there was nothing left to do: every expert is finished and \
                        kept";
            return Err(Error::Stopped(text.into()));
        }
        let trained = self.trained(&fit.learners);
        for expert in &trained.experts {
            if let Some((first, last)) = expert.rose() {
                watch.say(&format!(
                    "warning: the loss of `{}` ended above where it began ({first:.3} -> \
                     {last:.3}, means over steps); a lower learning rate may help",
                    expert.name
                ));
            }
        }
        Ok(trained)
    }

    fn trained(&self, learners: &[Learner]) -> Trained {
        let expert = |(job, learner): (&super::Job, &Learner)| {
            let replaced = self.differing.iter().find(|d| d.name == job.name);
            TrainedExpert {
                name: job.name.clone(),
                losses: learner.losses.clone(),
                pass: job.examples.len().div_ceil(self.training.how.batch),
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
    names: Vec<&'a Name>,
    /// Which of them may replace what is there.
    replace: Vec<bool>,
    committed: Vec<bool>,
    maker: Maker<'a>,
    checkpoint: Option<Checkpoint>,
    /// Why there is no checkpoint although there should be one; told once.
    unkept: Option<String>,
    /// The first refusal of an expert that another writer changed meanwhile.
    refused: Option<Error>,
}

impl Keep for Keeper<'_> {
    fn stepped(&mut self, learners: &[Learner], ended: &[usize]) -> Result<()> {
        // First the checkpoint: a run that is killed between the two commits these from it, and
        // the others go on from a step at which these were no longer beside them.
        if !ended.is_empty() || self.checkpoint.as_ref().is_some_and(Checkpoint::due) {
            self.write(learners);
        }
        self.commit(learners, ended)
    }

    fn stopping(&mut self, learners: &[Learner]) -> Result<()> {
        self.write(learners);
        Ok(())
    }
}

impl Keeper<'_> {
    /// Brings the learners to where they were, and commits those that had ended.
    fn resume(&mut self, learners: &mut [Learner], watch: &mut dyn Watch) -> Result<()> {
        let Some(checkpoint) = &self.checkpoint else {
            return Ok(());
        };
        let named = self.names.iter().copied().zip(learners.iter_mut());
        let (step, notes) = checkpoint.resume(&mut named.collect::<Vec<_>>());
        notes.iter().for_each(|note| watch.say(note));
        if step == 0 {
            return Ok(());
        }
        let steps = learners.iter().map(|l| l.schedule.total).max();
        watch.say(&format!(
            "going on from step {step} of {}, kept in {}",
            steps.unwrap_or(0),
            checkpoint.folder().display()
        ));
        let ended: Vec<usize> = (0..learners.len())
            .filter(|&i| learners[i].done())
            .collect();
        self.commit(learners, &ended)
    }

    /// Writes the learners that are not in the library yet.
    fn write(&mut self, learners: &[Learner]) {
        let Some(checkpoint) = &mut self.checkpoint else {
            return;
        };
        let open = {
            self.names
                .iter()
                .copied()
                .zip(learners)
                .zip(&self.committed)
        }
        .filter(|(_, committed)| !**committed)
        .map(|(named, _)| named);
        let open: Vec<(&Name, &Learner)> = open.collect();
        // Training goes on all the same: a checkpoint is for a break that may never come.
        self.unkept = match checkpoint.write(&open) {
            Ok(()) => None,
            Err(error) => Some(format!("no checkpoint could be kept: {}", error.chain())),
        };
    }

    /// Commits the learners `ended` as one version. One that another writer changed meanwhile is
    /// left out and told at the end.
    fn commit(&mut self, learners: &[Learner], ended: &[usize]) -> Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        let made: Vec<(usize, Expert)> = { ended.iter() }
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

    /// Says what went wrong with the last checkpoint.
    fn tell(&mut self, watch: &mut dyn Watch) {
        if let Some(text) = self.unkept.take() {
            watch.say(&text);
        }
    }

    /// Where what is not in the library is.
    fn left(&self) -> String {
        let open = self.committed.iter().filter(|committed| !**committed);
        let open = open.count();
        match &self.checkpoint {
            Some(checkpoint) if checkpoint.folder().is_dir() => format!(
                "the steps of {} are kept in {}, and the same training goes on from there",
                count(open),
                checkpoint.folder().display()
            ),
            _ => format!("the steps of {} are not kept", count(open)),
        }
    }

    fn stopped(&self, step: usize, steps: usize) -> Error {
        let done = self.names.iter().zip(&self.committed);
        let done = done
            .filter(|(_, done)| **done)
            .map(|(name, _)| name.as_str());
        let done: Vec<&str> = done.collect();
        let kept = match done.as_slice() {
            [] => String::new(),
            done => format!(
                "{} finished before and in {} (version {}): {}; ",
                count(done.len()),
                self.library.uri(),
                self.library.version(),
                done.join(", ")
            ),
        };
        let left = self.left();
        Error::Stopped(format!(
            "stopped after step {step} of {steps}; {kept}{left}"
        ))
    }
}

fn count(experts: usize) -> String {
    match experts {
        1 => "1 expert".into(),
        n => format!("{n} experts"),
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
