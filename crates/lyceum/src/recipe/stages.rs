//! The steps a recipe is made of, each of which knows what is already done.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::backbone::Base;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
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
        let examples = data.select(Some(tasks), Split::Train)?;
        jobs.push(Job {
            origin: origin.clone(),
            ..Job::new(name.clone(), tasks.clone(), examples)
        });
    }
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let trained = experts(base, &jobs, lora, how, watch)?;
    let mut batch = library.batch()?;
    for (expert, _) in &trained {
        batch.add(expert, Put::Replace)?;
    }
    match batch.commit() {
        // Training took long: what nobody else touched meanwhile is kept, then the conflict told.
        Err(Error::Conflict(_)) => {
            let added: Vec<Result<()>> = { trained.iter() }
                .map(|(expert, _)| library.add(expert, Put::Replace))
                .collect();
            added.into_iter().collect::<Result<()>>()?;
        }
        other => {
            other?;
        }
    }
    let names = trained.into_iter();
    Ok(names.map(|(e, losses)| (e.card.name, losses)).collect())
}
