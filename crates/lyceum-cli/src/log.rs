//! The library's `tracing` events as lines on stderr.

use anyhow::{Context, Result};
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Shows events from now on: those that `LYCEUM_LOG` or `RUST_LOG` names (`lyceum=debug`), else
/// those of debug level for a `verbose` of 1 and all for more. None are shown otherwise.
///
/// # Errors
/// When a variable cannot be understood.
pub(crate) fn start(verbose: u8) -> Result<()> {
    let var = |name: &'static str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.map(|value| (name, value))
    };
    let wanted: Targets = match (var("LYCEUM_LOG").or_else(|| var("RUST_LOG")), verbose) {
        (Some((name, value)), _) => { value.parse() }
            .with_context(|| format!("{name}={value}: use levels such as lyceum=debug"))?,
        (None, 0) => return Ok(()),
        (None, 1) => Targets::new().with_target("lyceum", tracing::Level::DEBUG),
        (None, _) => Targets::new().with_target("lyceum", tracing::Level::TRACE),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines)
        .with(wanted)
        // Other crates' events may hold signed addresses and headers.
        .with(filter_fn(|event| event.target().starts_with("lyceum")))
        .try_init()
        .context("the log cannot be started")
}

/// Returns `true` if events are shown.
pub(crate) fn shown() -> bool {
    tracing::dispatcher::has_been_set()
}
