//! Training checkpoints: every unfinished learner's variables, moments and losses, in one file
//! named by its own hash.
//!
//! The order of the data is not kept: it follows from the seed and the number of steps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fit::Learner;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::name::Name;

/// The least time between two writes that nothing but time asks for.
const OFTEN: Duration = Duration::from_secs(2);
/// A write may take a share of one in so many of the time since the one before.
const SHARE: u32 = 30;
const HEAD: &str = "training";
const ENDING: &str = ".safetensors";

/// The checkpoint of one training.
#[derive(Debug)]
pub(super) struct Checkpoint {
    folder: PathBuf,
    key: String,
    written: Instant,
    /// Duration of the last write.
    took: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    key: String,
    learners: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: Name,
    steps: usize,
    total: usize,
    vars: usize,
}

impl Checkpoint {
    /// That of the training which `what` tells apart from every other, below `root`.
    pub(super) fn new(root: &Path, what: &Value) -> Self {
        let key = sha256(what.to_string().as_bytes())[..32].to_owned();
        Checkpoint {
            folder: root.join(&key),
            key,
            written: Instant::now(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// True when enough time has passed since the last write.
    pub(super) fn due(&self) -> bool {
        self.written.elapsed() >= OFTEN.max(self.took * SHARE)
    }

    /// Writes the `learners`, each under its name, in place of what was written before.
    pub(super) fn write(&mut self, learners: &[(&Name, &Learner)]) -> Result<()> {
        let begun = Instant::now();
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut kept = Vec::new();
        for (i, (name, learner)) in learners.iter().enumerate() {
            let flat = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
            let moments = learner.first_moments().iter();
            let moments = moments.zip(learner.second_moments());
            for (j, (var, (first, second))) in learner.vars().iter().zip(moments).enumerate() {
                tensors.insert(format!("{i}.var.{j}"), var.to_device(&Device::Cpu)?);
                tensors.insert(format!("{i}.first.{j}"), flat(first)?);
                tensors.insert(format!("{i}.second.{j}"), flat(second)?);
            }
            let losses = learner.losses();
            let all = Tensor::from_slice(losses, losses.len(), &Device::Cpu)?;
            tensors.insert(format!("{i}.losses"), all);
            kept.push(Kept {
                name: (*name).clone(),
                steps: losses.len(),
                total: learner.total_steps(),
                vars: learner.vars().len(),
            });
        }
        let steps = kept.iter().map(|kept| kept.steps).max().unwrap_or(0);
        let head = Head {
            format: 1,
            key: self.key.clone(),
            learners: kept,
        };
        let bad = |why: String| Error::format(self.folder.display(), why);
        let head = serde_json::to_string(&head).map_err(|e| bad(e.to_string()))?;
        let head = [(HEAD.to_owned(), head)].into_iter().collect();
        let bytes = safetensors::serialize(tensors, Some(head)).map_err(|e| bad(e.to_string()))?;
        let name = format!("{steps:010}-{}{ENDING}", sha256(&bytes));
        crate::file::write(&self.folder.join(&name), &bytes)?;
        for older in self.files() {
            if older.file_name().is_some_and(|file| file != name.as_str()) {
                let _ = std::fs::remove_file(older);
            }
        }
        (self.written, self.took) = (Instant::now(), begun.elapsed());
        Ok(())
    }

    /// The files there are, those of most steps first.
    fn files(&self) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(&self.folder).into_iter().flatten();
        let paths = listed.filter_map(|entry| Some(entry.ok()?.path()));
        let ours = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(ENDING));
        let mut files: Vec<PathBuf> = paths.filter(ours).collect();
        files.sort();
        files.reverse();
        files
    }

    /// Brings those of `learners` that were kept to where they were. Returns the step of the
    /// furthest, 0 when nothing was kept, and what was found and cannot be used.
    pub(super) fn resume(&self, learners: &mut [(&Name, &mut Learner)]) -> (usize, Vec<String>) {
        let mut notes = Vec::new();
        for path in self.files() {
            match self.fill(&path, learners) {
                Ok(step) => return (step, notes),
                Err(error) => notes.push(format!(
                    "{}: {}; it is not used",
                    path.display(),
                    error.chain()
                )),
            }
        }
        (0, notes)
    }

    /// Fills all learners that the file at `path` holds, or none.
    fn fill(&self, path: &Path, learners: &mut [(&Name, &mut Learner)]) -> Result<usize> {
        let bad = |why: &str| Error::format(path.display(), why);
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.contains(&sha256(&bytes))) {
            return Err(bad("the checkpoint is damaged"));
        }
        let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|_| bad("the checkpoint is no safetensors file"))?;
        let head = meta.metadata().as_ref().and_then(|all| all.get(HEAD));
        let head: Head = head
            .and_then(|head| serde_json::from_str(head).ok())
            .filter(|head: &Head| head.format == 1 && head.key == self.key)
            .ok_or_else(|| bad("the checkpoint is of another training"))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let mut states = Vec::new();
        for (name, learner) in learners.iter() {
            let found = head.learners.iter().position(|kept| kept.name == **name);
            let state = found.map(|i| State::read(&tensors, i, &head.learners[i], learner));
            states.push(state.transpose()?);
        }
        let mut furthest = 0;
        for ((_, learner), state) in learners.iter_mut().zip(states) {
            if let Some(state) = state {
                furthest = furthest.max(state.losses.len());
                state.put(learner)?;
            }
        }
        Ok(furthest)
    }

    /// Forgets what was kept.
    pub(super) fn delete(&self) {
        // What cannot be deleted is found to be of finished experts and costs room alone.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// One learner as it was kept.
struct State {
    vars: Vec<Tensor>,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    losses: Vec<f64>,
}

impl State {
    fn read(
        all: &BTreeMap<String, Tensor>,
        i: usize,
        kept: &Kept,
        learner: &Learner,
    ) -> Result<Self> {
        let misfit = || Error::Mismatch(format!("expert `{}` has other sizes", kept.name));
        let part = |what: String| all.get(&format!("{i}.{what}")).ok_or_else(misfit);
        if kept.total != learner.total_steps() || kept.vars != learner.vars().len() {
            return Err(misfit());
        }
        let mut state = State {
            vars: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
            losses: part("losses".into())?.to_vec1()?,
        };
        for (j, var) in learner.vars().iter().enumerate() {
            let kept = part(format!("var.{j}"))?;
            let moment = |what: &str| {
                part(format!("{what}.{j}"))?
                    .to_vec1::<f32>()
                    .map_err(Error::from)
            };
            let (first, second) = (moment("first")?, moment("second")?);
            let n = var.elem_count();
            if kept.shape() != var.shape() || (first.len(), second.len()) != (n, n) {
                return Err(misfit());
            }
            state.vars.push(kept.clone());
            state.first.push(first);
            state.second.push(second);
        }
        match state.losses.len() == kept.steps && kept.steps <= kept.total {
            true => Ok(state),
            false => Err(misfit()),
        }
    }

    fn put(self, learner: &mut Learner) -> Result<()> {
        for (var, kept) in learner.vars().iter().zip(&self.vars) {
            var.set(&kept.to_device(var.device())?)?;
        }
        learner.resume(self.losses, self.first, self.second)
    }
}
