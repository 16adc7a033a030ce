//! cache show, clear, limit: what was fetched from remote places and is kept on this machine.

use anyhow::{Context, Result};
use lyceum::store::{Cache, Usage};

use crate::args::CacheCommand;
use crate::out::{Format, show};

pub(crate) fn cache(command: &CacheCommand, format: Format) -> Result<()> {
    let cache = Cache::of_user();
    let cache = cache.context("there is no folder for a cache here; set LYCEUM_CACHE to one")?;
    match command {
        CacheCommand::Show => show(format, &cache.usage()?, text),
        CacheCommand::Limit { bytes } => show(format, &cache.set_limit(*bytes)?, text),
        CacheCommand::Clear => show(format, &cache.clear()?, |gone| {
            format!("{} objects of {} given up", gone.objects, size(gone.bytes))
        }),
    }
}

fn text(usage: &Usage) -> String {
    format!(
        "{}\n{} objects, {} of at most {}; {} repositories as folders",
        usage.folder.display(),
        usage.objects,
        size(usage.bytes),
        size(usage.limit),
        usage.folders
    )
}

/// Bytes in words.
fn size(bytes: u64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = units.iter().find(|(_, unit)| bytes as f64 >= *unit);
    match unit {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} bytes"),
    }
}
