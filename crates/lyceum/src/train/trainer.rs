//! The trainer: experts trained into a library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::TrainConfig;
use super::into::Trained;
use super::plan::TaskGroup;
use crate::backbone::Base;
use crate::data::Dataset;
use crate::error::Result;
use crate::library::Library;
use crate::lora::LoraConfig;
use crate::name::Name;
use crate::progress::Progress;

/// Trains LoRA experts of a frozen base into a library.
///
/// All experts of a call train in one pass over the base. Those that the library already holds
/// with the same settings, data and base are kept; each of the others is committed as soon as it
/// is finished, so a run that is stopped or killed loses no finished expert.
///
/// ```
/// use std::sync::Arc;
///
/// use lyceum::assets;
/// use lyceum::backbone::Precision;
/// use lyceum::library::Library;
/// use lyceum::lora::LoraConfig;
/// use lyceum::progress::NoProgress;
/// use lyceum::train::{TrainConfig, Trainer};
///
/// # fn main() -> lyceum::Result<()> {
/// let base = Arc::new(assets::base(Precision::F32)?);
/// let data = assets::tasks()?;
/// let library = Library::create("memory://experts")?;
///
/// let trainer = Trainer::new(&base)
///     .lora(LoraConfig::default().rank(2))
///     .config(TrainConfig::default().batch(2).steps(2));
/// let task = data.tasks()[0].clone();
/// let trained = trainer.tasks(&[task], &data, &library, &mut NoProgress)?;
/// assert_eq!(trained.experts[0].losses.len(), 2);
/// assert_eq!(library.names()?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Trainer {
    pub(super) base: Arc<Base>,
    pub(super) lora: LoraConfig,
    pub(super) config: TrainConfig,
    pub(super) replace: bool,
    pub(super) mixed_bases: bool,
    pub(super) checkpoints: Option<PathBuf>,
}

impl Trainer {
    /// Creates a trainer over `base` with the default adapters and settings. It replaces no
    /// expert, mixes no bases and keeps no checkpoints.
    pub fn new(base: &Arc<Base>) -> Self {
        Trainer {
            base: base.clone(),
            lora: LoraConfig::default(),
            config: TrainConfig::default(),
            replace: false,
            mixed_bases: false,
            checkpoints: None,
        }
    }

    /// Sets rank, scale and targets of the adapters.
    #[must_use]
    pub fn lora(mut self, lora: LoraConfig) -> Self {
        self.lora = lora;
        self
    }

    /// Sets the hyperparameters.
    #[must_use]
    pub fn config(mut self, config: TrainConfig) -> Self {
        self.config = config;
        self
    }

    /// Allows or forbids to replace experts that were made with other settings, data or base;
    /// the library's earlier versions keep them.
    #[must_use]
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Allows or forbids to put experts beside those of another base, with which no router can
    /// combine them.
    #[must_use]
    pub fn mixed_bases(mut self, mixed: bool) -> Self {
        self.mixed_bases = mixed;
        self
    }

    /// Sets the folder of checkpoints, from which an interrupted training continues;
    /// [`Session::checkpoints`](crate::store::Session::checkpoints) is the command line's.
    #[must_use]
    pub fn checkpoints(mut self, dir: impl Into<PathBuf>) -> Self {
        self.checkpoints = Some(dir.into());
        self
    }

    /// Trains one expert for each task of `data`, called as the task is.
    ///
    /// # Errors
    /// As [`Trainer::groups`].
    pub fn each_task(
        &self,
        data: &Dataset,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        self.tasks(&data.tasks(), data, library, progress)
    }

    /// Trains one expert for each of `tasks`, called as the task is.
    ///
    /// # Errors
    /// As [`Trainer::groups`].
    pub fn tasks(
        &self,
        tasks: &[Name],
        data: &Dataset,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        let groups: Vec<TaskGroup> = tasks.iter().cloned().map(TaskGroup::of_task).collect();
        self.groups(&groups, data, library, progress)
    }

    /// Trains one joint expert for each of `clusters`, on all tasks of the cluster.
    ///
    /// # Errors
    /// As [`Trainer::groups`].
    pub fn clusters(
        &self,
        clusters: &BTreeMap<Name, Vec<Name>>,
        data: &Dataset,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        let groups = { clusters.iter() }
            .map(|(name, tasks)| TaskGroup::new(name.clone(), tasks.clone()))
            .collect::<Vec<_>>();
        self.groups(&groups, data, library, progress)
    }

    /// Trains one expert, that of `group`.
    ///
    /// # Errors
    /// As [`Trainer::groups`].
    pub fn expert(
        &self,
        group: &TaskGroup,
        data: &Dataset,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        self.groups(std::slice::from_ref(group), data, library, progress)
    }

    /// Trains one expert for each of `groups` on the training rows of its tasks in `data`, all in
    /// one pass, and commits each to `library` as soon as it is finished.
    ///
    /// # Errors
    /// When a setting is out of range, a task has no rows, an expert is asked for twice, one is
    /// there that was made otherwise or on another base (unless [`Trainer::replace`] and
    /// [`Trainer::mixed_bases`] allow it), a loss is not finite, another writer changed one of
    /// these experts meanwhile (the others are kept), or the library cannot be written;
    /// [`Error::Stopped`](crate::Error::Stopped) when `progress` stops the run: it names the
    /// experts that are finished, and where the steps of the others are kept.
    pub fn groups(
        &self,
        groups: &[TaskGroup],
        data: &Dataset,
        library: &Library,
        progress: &mut dyn Progress,
    ) -> Result<Trained> {
        self.plan(groups, data, library)?.run(progress)
    }
}
