//! Output of the commands: text for people, JSON for machines, progress on stderr.

#![expect(clippy::print_stderr, reason = "the one place that prints")]

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use lyceum::progress::{Progress, Step};
use lyceum::recipe::StageObserver;
use serde::Serialize;

use crate::hint;
use crate::interrupt::Stoppable;
use crate::log;

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Prints `value` as JSON, or what `text` makes of it.
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => lyceum::report::json::pretty(value)?,
        Format::Text => text(value),
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end())?;
    // Nothing may be left to be lost when the process ends.
    stdout.flush()?;
    Ok(())
}

/// Prints text as it comes, without a line end.
pub(crate) fn stream(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let done = stdout.write_all(text.as_bytes());
    done.and_then(|()| stdout.flush())
        .context("the text could not be written")
}

/// Set by `--quiet`.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Silences messages and progress of this process, or not.
pub(crate) fn quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A line on stderr, unless messages are silenced.
pub(crate) fn say(text: &str) {
    if !is_quiet() {
        eprintln!("{text}");
    }
}

/// Asks a person at a terminal to agree to what cannot be undone.
///
/// # Errors
/// When there is no terminal to ask at, or the answer is not yes.
pub(crate) fn confirm(question: &str) -> anyhow::Result<()> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        anyhow::bail!("nobody can be asked here; --yes agrees beforehand ({question})");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("not confirmed; nothing was changed"),
    }
}

/// The word before a warning.
fn warning() -> impl std::fmt::Display {
    style("warning:").for_stderr().yellow()
}

/// Prints a base's notes as warnings, a line each on stderr.
pub(crate) fn warn(notes: &[String]) {
    notes
        .iter()
        .for_each(|note| say(&format!("{} {note}", warning())));
}

/// `n` things in words: `1 expert`, `3 experts`.
pub(crate) fn count(n: usize, thing: &str) -> String {
    match n {
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

/// Prints what a command wrote: the paths, under `wrote` for machines.
pub(crate) fn wrote(format: Format, paths: &[&std::path::Path]) -> anyhow::Result<()> {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    let value = serde_json::json!({ "wrote": paths });
    show(format, &value, |_| format!("wrote {}", paths.join(", ")))
}

/// Bytes in words.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = units.iter().find(|(_, unit)| bytes as f64 >= *unit);
    match unit {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} bytes"),
    }
}

/// Prints `error`, its causes and the flags or commands that help, in one line.
pub(crate) fn complain(error: &anyhow::Error) {
    let cause = error
        .chain()
        .find_map(<dyn std::error::Error>::downcast_ref::<lyceum::Error>);
    let hints = cause.map(lyceum::Error::hints).unwrap_or_default();
    let text = lyceum::error::chain(error.as_ref());
    let hints: String = hints
        .iter()
        .map(|h| format!("; {}", hint::words(h)))
        .collect();
    eprintln!(
        "{} {text}{hints}",
        style("error:").for_stderr().red().bold()
    );
}

/// A command ran and found something wrong, which it has printed: exit code 1.
#[derive(Debug)]
pub(crate) struct NotClean;

impl std::fmt::Display for NotClean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("something is wrong")
    }
}

impl std::error::Error for NotClean {}

/// Returns `true` if the reader of our output is gone, which is not a failure.
pub(crate) fn broken_pipe(error: &anyhow::Error) -> bool {
    let io = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(io))
}

/// The message of a stopped run, if the error is one: it says what was kept.
pub(crate) fn stopped(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(lyceum::Error::Stopped(text)) => Some(text.clone()),
        _ => None,
    })
}

/// Returns `true` if stderr can hold bars: it is a terminal, no events are shown there, and messages
/// are not silenced.
fn bars() -> bool {
    std::io::stderr().is_terminal() && !log::shown() && !is_quiet()
}

/// A bar on stderr while something long runs; nothing when stderr is not a terminal.
pub(crate) struct Bar {
    bar: ProgressBar,
    unit: &'static str,
    tokens: u64,
    /// Set where Ctrl-C stops in good order.
    stoppable: Option<Stoppable>,
}

impl Bar {
    /// As [`Bar::new`], for what stops in good order on Ctrl-C.
    pub(crate) fn stoppable(name: &str, unit: &'static str) -> Self {
        let mut bar = Bar::new(name, unit);
        let shown = bar.bar.clone();
        let told =
            move || shown.suspend(|| say("stopping after this step; Ctrl-C again stops at once"));
        bar.stoppable = Some(Stoppable::begin(told));
        bar
    }

    pub(crate) fn new(name: &str, unit: &'static str) -> Self {
        let bar = match bars() {
            true => ProgressBar::new(1),
            false => ProgressBar::hidden(),
        };
        let template = "{prefix:<20!} {wide_bar} {pos}/{len} {msg} {elapsed} left {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar {
            bar,
            unit,
            tokens: 0,
            stoppable: None,
        }
    }
}

impl Bar {
    /// `done` of `all` things are.
    pub(crate) fn at(&mut self, done: usize, all: usize) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
    }
}

impl Progress for Bar {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self.tokens += step.tokens as u64;
        let speed = self.tokens as f64 / self.bar.elapsed().as_secs_f64().max(1e-3);
        self.at(step.done, step.total);
        let (unit, value) = (self.unit, step.value);
        self.bar
            .set_message(format!("{unit} {value:.3}  {speed:.0} tokens/s"));
        match self.stoppable.as_ref().is_some_and(Stoppable::asked) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn message(&mut self, text: &str) {
        self.bar.suspend(|| say(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish();
    }
}

/// A recipe's stages: bars on a terminal, one line per stage elsewhere.
pub(crate) struct Stages {
    pub(crate) quiet: bool,
}

impl StageObserver for Stages {
    fn stage(&mut self, name: &str, unit: &'static str) -> Box<dyn Progress + '_> {
        if !bars() && !self.quiet {
            say(name);
        }
        // What has a loss is a training.
        match unit {
            "loss" => Box::new(Bar::stoppable(name, unit)),
            _ => Box::new(Bar::new(name, unit)),
        }
    }

    fn message(&mut self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}
