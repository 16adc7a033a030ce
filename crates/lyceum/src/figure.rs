//! What is measured, as data: figures with their standard errors, similarities, routing, curves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was measured: a router over a library.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The router.
    pub method: String,
    /// `private`, `mbc`, an address; empty for the base.
    pub library: String,
    /// `outputs`, `factors`; empty where it makes no difference.
    pub mixing: String,
}

impl Subject {
    /// The figure that `values`, one per example, make.
    pub fn row(&self, task: &str, metric: &str, values: &[f64]) -> Row {
        let (mean, stderr) = mean_stderr(values);
        Row {
            method: self.method.clone(),
            library: self.library.clone(),
            mixing: self.mixing.clone(),
            task: task.into(),
            metric: metric.into(),
            mean,
            stderr,
            n: values.len(),
        }
    }

    /// Its parts in a file name: `arrow-private-outputs`.
    pub fn tag(&self) -> String {
        let parts = [&self.method, &self.library, &self.mixing];
        let parts: Vec<&str> = parts
            .iter()
            .map(|p| p.as_str())
            .filter(|p| !p.is_empty())
            .collect();
        parts.join("-")
    }
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
    /// Mean number of experts a token goes to; 0 where it is not known.
    #[serde(default)]
    pub chosen: f64,
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

impl Row {
    /// Whether both are of one method, over whichever libraries.
    pub fn same_method(&self, other: &Row) -> bool {
        (&self.method, &self.mixing) == (&other.method, &other.mixing)
    }

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
