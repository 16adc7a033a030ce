//! The steps a recipe is made of, each of which knows what is already done.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::backbone::Base;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::library::Library;
use crate::lora::LoraConfig;
use crate::name::Name;
use crate::store::Put;
use crate::train::{How, Job, Watch, experts};

/// What an expert remembers about its training; equal origins mean equal experts.
pub fn origin(how: &How, lora: &LoraConfig, data: &Dataset, base: &Base) -> Value {
    json!({
        "train": how,
        "lora": lora,
        "data": data.fingerprint(),
        "precision": base.precision,
        "by": concat!("lyceum ", env!("CARGO_PKG_VERSION")),
    })
}

/// Trains those of `groups` (expert name and its tasks) that `library` does not yet hold with
/// this origin, all in one pass, and adds them. Returns the names trained now with their losses.
///
/// # Errors
/// When a task has no rows, a setting is out of range, a loss is not finite or the library
/// cannot be written.
pub fn train_missing(
    base: &Arc<Base>,
    library: &Library,
    data: &Dataset,
    groups: &[(Name, Vec<Name>)],
    (lora, how): (&LoraConfig, &How),
    watch: &mut dyn Watch,
) -> Result<Vec<(Name, Vec<f64>)>> {
    let origin = origin(how, lora, data, base);
    let held = library.names()?;
    let mut jobs = Vec::new();
    for (name, tasks) in groups {
        if held.contains(name) {
            let card = library.card(name)?;
            let same = card.origin == origin && card.base.as_ref() == Some(&base.fingerprint);
            if same && card.tasks == *tasks {
                continue;
            }
        }
        jobs.push(Job {
            name: name.clone(),
            tasks: tasks.clone(),
            examples: data.select(Some(tasks), Split::Train)?,
            origin: origin.clone(),
        });
    }
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let mut trained = Vec::new();
    for (expert, losses) in experts(base, &jobs, lora, how, watch)? {
        library.add(&expert, Put::Replace)?;
        trained.push((expert.card.name, losses));
    }
    Ok(trained)
}
