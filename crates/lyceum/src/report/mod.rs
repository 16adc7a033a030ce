//! What a run found, as data, as text and as a page with charts.

pub mod chart;
mod charts;
mod html;
mod markdown;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// A run's results with everything needed to judge and repeat them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the run was called.
    pub title: String,
    /// What it was made from and with.
    pub provenance: Provenance,
    /// Its steps.
    pub stages: Vec<Stage>,
    /// Its figures.
    pub rows: Vec<Row>,
    /// How alike experts are.
    pub similarity: Vec<Similarity>,
    /// Where tokens went.
    pub routing: Vec<Routing>,
    /// Training losses.
    pub curves: Vec<Curve>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Seed, device, versions, fingerprints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of Lyceum.
    pub lyceum: String,
    /// Seed of everything.
    pub seed: u64,
    /// Where it ran.
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
    /// The recipe as run.
    pub spec: Value,
}

/// A step of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What it did.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
    /// Tokens read.
    pub tokens: u64,
    /// The most memory held so far, MiB.
    pub peak_memory_mib: f64,
    /// Whether its result was there already.
    pub resumed: bool,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The router.
    pub method: String,
    /// `private`, `mbc`; empty for the base.
    pub library: String,
    /// `outputs`, `factors`; empty where it makes no difference.
    pub mixing: String,
    /// A task, or `mean` over all examples.
    pub task: String,
    /// `rouge-l`, `acc`, `acc_norm`, `acc_tok`, `loss`.
    pub metric: String,
    /// Mean over the examples.
    pub mean: f64,
    /// Its standard error.
    pub stderr: f64,
    /// How many examples.
    pub n: usize,
}

/// Cosines between experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// The library.
    pub library: String,
    /// Its experts.
    pub names: Vec<String>,
    /// One row per expert.
    pub cosines: Vec<Vec<f64>>,
    /// Cluster to members.
    pub clusters: BTreeMap<String, Vec<String>>,
}

/// Where a method sent tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// The method.
    pub method: String,
    /// The library.
    pub library: String,
    /// By block of the base.
    pub layers: Vec<LayerRouting>,
    /// The experts.
    pub experts: Vec<String>,
    /// Share of the gate weight per expert; sums to 1.
    pub load: Vec<f64>,
}

/// Where one block sent tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRouting {
    /// The block's number.
    pub layer: String,
    /// Share of tokens whose own task's expert was among the chosen.
    pub own_share: f64,
    /// Mean weight of the own expert.
    pub own_weight: f64,
    /// Mean entropy of the gates, nats.
    pub entropy: f64,
}

/// A loss curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Whose.
    pub name: String,
    /// Steps.
    pub steps: Vec<u64>,
    /// Loss at each.
    pub losses: Vec<f64>,
}

/// Mean and standard error (sample deviation over `sqrt(n)`; 0 below two values).
pub fn mean_stderr(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

impl Report {
    /// The pictures this report has figures for.
    pub fn charts(&self) -> Vec<chart::Chart> {
        charts::charts(self)
    }

    /// Writes `report.md`, `report.html`, `plots/` and, last, `report.json` into `dir`.
    ///
    /// # Errors
    /// When a chart cannot be drawn or a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|e| Error::format("report.json", e))?;
        json.push(b'\n');
        let charts = self.charts();
        for chart in &charts {
            chart.write(&dir.join("plots"))?;
        }
        let page = html::render(self, &charts)?;
        crate::file::write(&dir.join("report.html"), page.as_bytes())?;
        crate::file::write(&dir.join("report.md"), markdown::render(self).as_bytes())?;
        crate::file::write(&dir.join("report.json"), &json)
    }

    /// Reads `report.json`.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::format(path.display(), e))
    }

    /// The report without what differs between two equal runs: times, memory, threads and what
    /// was reused.
    #[must_use]
    pub fn comparable(&self) -> Report {
        let mut report = self.clone();
        report.provenance.threads = 0;
        for stage in &mut report.stages {
            (stage.seconds, stage.peak_memory_mib) = (0.0, 0.0);
            (stage.tokens, stage.resumed) = (0, false);
        }
        report
    }

    /// What the figures say of the tutorial's story, in plain sentences.
    pub fn story(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut compare = |a: Option<&Row>, b: Option<&Row>| {
            if let (Some(a), Some(b)) = (a, b) {
                lines.push(sentence(a, b));
            }
        };
        let base = self.mean("base", "", "");
        compare(self.mean("oracle", "private", ""), base);
        for library in ["private", "mbc"] {
            for mixing in ["outputs", "factors"] {
                let uniform = self.mean("uniform", library, mixing);
                for method in ["arrow", "phatgoose"] {
                    compare(self.mean(method, library, mixing), uniform);
                }
            }
        }
        for (method, mixing) in [
            ("oracle", ""),
            ("uniform", "outputs"),
            ("uniform", "factors"),
            ("arrow", "outputs"),
            ("arrow", "factors"),
            ("phatgoose", "outputs"),
        ] {
            compare(
                self.mean(method, "mbc", mixing),
                self.mean(method, "private", mixing),
            );
        }
        lines
    }

    fn mean(&self, method: &str, library: &str, mixing: &str) -> Option<&Row> {
        self.rows.iter().find(|r| {
            r.method == method
                && r.library == library
                && r.mixing == mixing
                && r.task == "mean"
                && r.metric == "rouge-l"
        })
    }
}

impl Stage {
    /// Tokens read per second of wall time.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

impl Row {
    /// Method, library and mixing in a line.
    pub fn label(&self) -> String {
        let parts = [self.library.as_str(), self.mixing.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        match parts.is_empty() {
            true => self.method.clone(),
            false => format!("{} ({})", self.method, parts.join(", ")),
        }
    }
}

fn sentence(a: &Row, b: &Row) -> String {
    let difference = a.mean - b.mean;
    let error = a.stderr.hypot(b.stderr);
    let verdict = match difference {
        d if d.abs() < 2.0 * error => "is not distinguishable from",
        d if d > 0.0 => "is above",
        _ => "is below",
    };
    let (a, b) = (a.label(), b.label());
    format!("{a} {verdict} {b}: {difference:+.1} ROUGE-L (standard error {error:.1}).")
}
