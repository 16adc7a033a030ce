//! cache show, clear, limit: what was fetched from remote places and is kept on this machine.

use anyhow::{Context, Result};
use lyceum::store::Usage;

use super::Settings;
use crate::args::CacheCommand;
use crate::out::{show, size};

pub(crate) fn cache(command: &CacheCommand, settings: &Settings) -> Result<()> {
    let (cache, format) = (settings.session.cache(), settings.format);
    let cache = cache.context("there is no folder for a cache here; set LYCEUM_CACHE to one")?;
    match command {
        CacheCommand::Show => show(format, &cache.usage()?, text),
        CacheCommand::Limit { bytes } => show(format, &cache.set_limit(*bytes)?, text),
        CacheCommand::Clear => show(format, &cache.clear()?, |gone| {
            let objects = format!("{} objects of {}", gone.objects, size(gone.bytes));
            match gone.trainings {
                0 => format!("{objects} given up"),
                n => format!("{objects} and the steps of {n} interrupted trainings given up"),
            }
        }),
    }
}

fn text(usage: &Usage) -> String {
    let mut text = format!(
        "{}\n{} objects, {} of at most {}; {} repositories as folders",
        usage.folder.display(),
        usage.objects,
        size(usage.bytes),
        size(usage.limit),
        usage.folders
    );
    if usage.trainings > 0 {
        let (trainings, bytes) = (usage.trainings, size(usage.training_bytes));
        text += &format!("\n{trainings} interrupted trainings, {bytes}");
    }
    text
}
