//! Reports of a run: data, text, and a page with charts.

pub mod chart;
mod charts;
#[cfg_attr(not(feature = "report"), path = "draw/disabled.rs")]
mod draw;
pub mod json;
mod markdown;
pub mod paired;
mod routed;
mod seeds;
mod story;
mod student;
mod table;
mod template;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backbone::Base;
use crate::error::{Error, Result};
use crate::metrics::{Curve, Cut, Metric, Routing, Similarity};
pub use draw::drawable;
use paired::Scores;

/// A run's results with everything needed to judge and repeat them.
///
/// ```no_run
/// use std::path::Path;
/// use lyceum::report::Report;
///
/// let report = Report::read(Path::new("out/report.json"))?;
/// for sentence in report.story() {
///     println!("{sentence}");
/// }
/// report.write(Path::new("again"))?;
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The run's title.
    pub title: String,
    /// The inputs, settings and machine of the run.
    pub provenance: Provenance,
    /// Its steps.
    pub stages: Vec<Stage>,
    /// Its figures.
    pub rows: Vec<Metric>,
    /// Cosine similarities between experts.
    pub similarity: Vec<Similarity>,
    /// Routing statistics.
    pub routing: Vec<Routing>,
    /// Training losses.
    pub curves: Vec<Curve>,
    /// Remarks for the reader.
    pub notes: Vec<String>,
    /// By task of multiple choice, the accuracy of a blind choice.
    #[serde(default)]
    pub chance: BTreeMap<String, f64>,
    /// The seeds of the runs it is the mean of; empty for a single run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// The values behind the rows that are compared.
    #[serde(default)]
    pub scores: Vec<Scores>,
}

/// Seed, device, versions, fingerprints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of Lyceum.
    pub lyceum: String,
    /// Seed of everything.
    pub seed: u64,
    /// The device it ran on.
    pub device: String,
    /// Arithmetic of the frozen matrices.
    pub precision: String,
    /// Threads used.
    pub threads: usize,
    /// Ways of mixing compared.
    pub mixing: String,
    /// Name of the base.
    pub base: String,
    /// Its fingerprint.
    pub base_fingerprint: String,
    /// Label to fingerprint.
    pub libraries: BTreeMap<String, String>,
    /// Versions of what matters.
    pub versions: BTreeMap<String, String>,
    /// The recipe as run, or what was evaluated and how.
    pub spec: Value,
    /// The inputs read: data, questions, and for an evaluation the library.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Inputs truncated or skipped for lack of room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cut>,
    /// The date of the run (UTC); set by an evaluation, absent from a recipe's report, which is
    /// reproducible byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The command it was made by, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Something that was read, and which state of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `library`, `data`, `questions`.
    pub what: String,
    /// Its path or address; `embedded` for what is shipped.
    pub place: String,
    /// The version that was read, of what has versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Hex SHA-256 of its content.
    pub fingerprint: String,
}

/// A step of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The stage's name.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// Tokens read.
    pub tokens: u64,
    /// The most memory held so far, MiB.
    pub peak_memory_mib: f64,
    /// `true` if its result already existed.
    pub resumed: bool,
}

impl Report {
    /// A report without figures yet.
    pub fn new(title: String, provenance: Provenance) -> Self {
        Report {
            title,
            provenance,
            stages: Vec::new(),
            rows: Vec::new(),
            similarity: Vec::new(),
            routing: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
            chance: BTreeMap::new(),
            seeds: Vec::new(),
            scores: Vec::new(),
        }
    }

    /// The pictures this report has figures for.
    pub fn charts(&self) -> Vec<chart::Chart> {
        charts::charts(self)
    }

    /// Writes `report.md`, `report.html`, `plots/` and, last, `report.json` into `dir`. Charts of the
    /// report that was there before, and that this one has not, go. A build that draws nothing (see
    /// [`drawable`]) writes text and data only.
    ///
    /// # Errors
    /// When a chart cannot be drawn or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut json = json::pretty(self)?;
        json.push('\n');
        if drawable().is_ok() {
            self.draw(dir)?;
        }
        crate::file::write(&dir.join("report.md"), markdown::render(self)?.as_bytes())?;
        crate::file::write(&dir.join("report.json"), json.as_bytes())
    }

    /// Writes `plots/` and `report.html`; `report.json` there is still that of the report before.
    fn draw(&self, dir: &Path) -> Result<()> {
        let charts = self.charts();
        let before = Report::read(&dir.join("report.json"));
        for chart in &charts {
            chart.write(&dir.join("plots"))?;
        }
        for old in before.iter().flat_map(Report::charts) {
            if !charts.iter().any(|chart| chart.name == old.name) {
                remove_chart(&dir.join("plots"), &old.name)?;
            }
        }
        let page = draw::page(self, &charts)?;
        crate::file::write(&dir.join("report.html"), page.as_bytes())
    }

    /// Reads `report.json`.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        crate::file::json(&path.display().to_string(), &bytes)
    }

    /// The report without what differs between two equal runs: times, memory, threads and what
    /// was reused.
    #[must_use]
    pub fn comparable(&self) -> Report {
        let mut report = self.clone();
        report.provenance.threads = 0;
        (report.provenance.date, report.provenance.command) = (None, None);
        for stage in &mut report.stages {
            (stage.seconds, stage.peak_memory_mib) = (0.0, 0.0);
            (stage.tokens, stage.resumed) = (0, false);
        }
        report
    }

    /// Short facts about the run: version, base, arithmetic, machine.
    fn facts(&self) -> Vec<String> {
        let p = &self.provenance;
        let mut facts = vec![
            format!("Lyceum {}", p.lyceum),
            format!("base {}", p.base),
            format!("{} on {}", p.precision, p.device),
            match self.seeds.as_slice() {
                [] => format!("seed {}", p.seed),
                seeds => format!("{} seeds", seeds.len()),
            },
        ];
        facts.extend(self.provenance.date.clone());
        let seconds: f64 = self.stages.iter().map(|stage| stage.seconds).sum();
        if seconds > 0.0 {
            facts.push(format!("{seconds:.0} s"));
        }
        facts
    }

    /// The command that does it again, where it is known.
    fn command(&self) -> Option<&str> {
        self.provenance.command.as_deref()
    }
}

impl Provenance {
    /// The provenance of a run over `base` under `seed` on this machine; `spec` is the request.
    pub fn new(base: &Base, seed: u64, spec: Value) -> Self {
        Provenance {
            lyceum: env!("CARGO_PKG_VERSION").into(),
            seed,
            device: crate::device::name(base.decoder.device()),
            precision: base.precision.to_string(),
            threads: rayon::current_num_threads(),
            mixing: String::new(),
            base: base.name.clone(),
            base_fingerprint: base.fingerprint.clone(),
            libraries: BTreeMap::new(),
            versions: BTreeMap::from([("candle".into(), "0.11".into())]),
            spec,
            sources: Vec::new(),
            cuts: Vec::new(),
            date: None,
            command: None,
        }
    }
}

impl Stage {
    /// A stage that began at `begun`, read `tokens` tokens and ends now.
    pub fn ended(name: String, begun: Instant, tokens: u64, resumed: bool) -> Self {
        Stage {
            name,
            seconds: begun.elapsed().as_secs_f64(),
            tokens,
            peak_memory_mib: peak_memory_mib(),
            resumed,
        }
    }

    /// Tokens read per second of wall time.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// Removes the pictures of the chart `name` in `plots`, as far as they are there.
fn remove_chart(plots: &Path, name: &str) -> Result<()> {
    for ending in ["svg", "png"] {
        let path = plots.join(format!("{name}.{ending}"));
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// The most memory this process has held, in MiB; 0 where the system does not say.
fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
fn provenance_for_tests() -> Provenance {
    Provenance {
        lyceum: "0".into(),
        seed: 1,
        device: "CPU".into(),
        precision: "f32".into(),
        threads: 1,
        mixing: String::new(),
        base: "tiny".into(),
        base_fingerprint: "0".into(),
        libraries: BTreeMap::new(),
        versions: BTreeMap::new(),
        spec: Value::Null,
        sources: Vec::new(),
        cuts: Vec::new(),
        date: None,
        command: None,
    }
}
