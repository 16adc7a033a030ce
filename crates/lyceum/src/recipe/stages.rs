//! The steps a recipe is made of, each of which knows what is already done.

use std::sync::Arc;

use crate::backbone::Base;
use crate::data::Dataset;
use crate::error::Result;
use crate::library::Library;
use crate::lora::LoraConfig;
use crate::name::Name;
use crate::train::{How, Training, Watch};

pub use crate::train::origin;

/// Trains those of `groups` (expert name and its tasks) that `library` does not yet hold with
/// this origin, all in one pass, each committed as it is finished; replaces nothing and keeps no
/// checkpoint ([`Training`] does both when asked). Returns the names trained now with their losses.
///
/// # Errors
/// When an expert is there that was made otherwise or on another base, a task has no rows, a
/// setting is out of range, a loss is not finite or the library cannot be written.
pub fn train_missing(
    base: &Arc<Base>,
    library: &Library,
    data: &Dataset,
    groups: &[(Name, Vec<Name>)],
    (lora, how): (&LoraConfig, &How),
    watch: &mut dyn Watch,
) -> Result<Vec<(Name, Vec<f64>)>> {
    let training = Training {
        base,
        data,
        lora,
        how,
    };
    let trained = training.plan(library, groups)?.run(None, watch)?;
    let trained = trained.experts.into_iter();
    Ok(trained.map(|expert| (expert.name, expert.losses)).collect())
}
