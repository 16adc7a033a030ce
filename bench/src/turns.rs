//! Turns: a line in, a measurement out.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

/// The result of a turn.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// In the unit of the step: tokens, questions, floating-point operations, bytes.
    pub(crate) amount: f64,
    /// Values the peer must arrive at too.
    pub(crate) check: Vec<f32>,
}

/// Takes turns until stdin ends, then says how much memory the process held at most.
///
/// # Errors
/// When a turn fails.
pub(crate) fn serve(mut turn: impl FnMut(&str) -> Result<Done>) -> Result<()> {
    while let Some(variant) = next()? {
        let started = Instant::now();
        let done = turn(&variant)?;
        answer(started, &done)?;
    }
    end()
}

/// The variant asked for next; none at the end.
pub(crate) fn next() -> Result<Option<String>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let variant = line.trim();
    Ok((!variant.is_empty()).then(|| variant.to_owned()))
}

/// Answers a turn that began at `started` and ends now.
pub(crate) fn answer(started: Instant, done: &Done) -> Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    say(&json!({ "seconds": seconds, "amount": done.amount, "check": done.check }))
}

/// Says how much memory the process held at most.
pub(crate) fn end() -> Result<()> {
    say(&json!({ "peak": peak() }))
}

fn say(value: &serde_json::Value) -> Result<()> {
    println!("{value}");
    Ok(std::io::stdout().flush()?)
}

/// Most bytes resident at once so far, where the system tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
