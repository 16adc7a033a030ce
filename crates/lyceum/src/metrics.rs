//! Measured results as data: figures with their standard errors, similarities, routing, curves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The subject of a measurement: a method (a router with its whole specification and a way of
/// mixing) over a library.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunKey {
    /// The router.
    pub method: String,
    /// The method's display name: the given name, or its router and the settings that were made
    /// (`arrow k=2`).
    pub name: String,
    /// The router's whole specification: its name under `router`, and every setting.
    pub spec: Value,
    /// `private`, `mbc`, an address; empty for the base.
    pub library: String,
    /// `outputs`, `factors`; empty where it makes no difference.
    pub mixing: String,
}

/// A mean over examples with its standard error.
///
/// ```
/// use lyceum::metrics::Estimate;
///
/// let estimate = Estimate::of(&[0.0, 1.0, 1.0, 1.0]);
/// assert_eq!(estimate.to_string(), "0.75 ± 0.25");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error: the sample's standard deviation over the root of `n`.
    pub stderr: f64,
    /// Number of examples.
    pub n: usize,
}

impl Estimate {
    /// The mean of `values` and its standard error.
    pub fn of(values: &[f64]) -> Self {
        let (mean, stderr) = mean_stderr(values);
        let n = values.len();
        Estimate { mean, stderr, n }
    }
}

impl std::fmt::Display for Estimate {
    /// Two decimals unless others are asked for: `20.90 ± 2.87`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:.decimals$} ± {:.decimals$}", self.mean, self.stderr)
    }
}

impl RunKey {
    /// Returns the metric of `values`, one per example.
    pub fn metric(&self, task: &str, metric: &str, values: &[f64]) -> Metric {
        let (mean, stderr) = mean_stderr(values);
        Metric {
            method: self.method.clone(),
            name: self.name.clone(),
            spec: self.spec.clone(),
            library: self.library.clone(),
            mixing: self.mixing.clone(),
            task: task.into(),
            metric: metric.into(),
            mean,
            stderr,
            n: values.len(),
        }
    }

    /// The method, its library and its mixing in a line: `arrow k=2 (private, outputs)`.
    pub fn label(&self) -> String {
        label(
            called(&self.name, &self.method),
            &self.library,
            &self.mixing,
        )
    }

    /// The label as a file name: `arrow-k2-private-outputs`.
    pub fn tag(&self) -> String {
        let name = called(&self.name, &self.method).replace(' ', "-");
        let parts = [&name.replace('=', ""), &self.library, &self.mixing];
        let parts = parts.into_iter().map(String::as_str);
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        parts.join("-")
    }
}

/// The name of a method, or its router where it has none (figures written before there were names).
fn called<'a>(name: &'a str, method: &'a str) -> &'a str {
    match name {
        "" => method,
        name => name,
    }
}

fn label(method: &str, library: &str, mixing: &str) -> String {
    let parts: Vec<&str> = { [library, mixing].into_iter() }
        .filter(|part| !part.is_empty())
        .collect();
    match parts.is_empty() {
        true => method.to_owned(),
        false => format!("{method} ({})", parts.join(", ")),
    }
}

/// One figure.
///
/// ```
/// use lyceum::metrics::RunKey;
///
/// let arrow = RunKey {
///     method: "arrow".into(),
///     name: "arrow k=2".into(),
///     spec: serde_json::json!({ "router": "arrow", "top_k": 2 }),
///     library: "private".into(),
///     mixing: "outputs".into(),
/// };
/// let metric = arrow.metric("sums", "rouge-l", &[40.0, 60.0]);
/// assert_eq!((metric.mean, metric.n), (50.0, 2));
/// assert_eq!(metric.label(), "arrow k=2 (private, outputs)");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The router.
    pub method: String,
    /// The method's display name: `arrow k=2`, or the name a recipe gave it.
    #[serde(default)]
    pub name: String,
    /// The router's whole specification; with the mixing and the name it is the method's identity.
    #[serde(default)]
    pub spec: Value,
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
    /// The number of examples.
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

/// Routing statistics of a method: the experts its tokens went to.
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

/// Routing statistics of one block.
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

/// Inputs that an evaluation truncated or skipped because they exceed the context length.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    /// The metric or the questions: `rouge-l`, `loss`, `arc-easy`.
    pub what: String,
    /// Rows or questions read.
    pub rows: usize,
    /// Those that were longer than `max_input` and lost their left end.
    pub cut: usize,
    /// Longest input there was room for, in tokens.
    pub max_input: usize,
    /// Most new tokens there was room for; 0 where none are generated.
    #[serde(default)]
    pub max_new: usize,
    /// Most new tokens asked for.
    #[serde(default)]
    pub max_new_asked: usize,
}

impl Cut {
    /// Describes the truncated and skipped inputs in sentences; empty when there are none.
    pub fn sentences(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.cut > 0 {
            all.push(format!(
                "{}: {} of {} inputs are longer than {} tokens and lost their left end.",
                self.what, self.cut, self.rows, self.max_input
            ));
        }
        if self.max_new < self.max_new_asked {
            all.push(format!(
                "{}: at most {} new tokens per row instead of the {} asked for, which is half of \
                 what the base has positions for.",
                self.what, self.max_new, self.max_new_asked
            ));
        }
        all
    }
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

impl Metric {
    /// The method, its library and its mixing in a line: `arrow k=2 (private, outputs)`.
    pub fn label(&self) -> String {
        label(
            called(&self.name, &self.method),
            &self.library,
            &self.mixing,
        )
    }

    /// Returns `true` if both rows are of one method, over whichever libraries.
    pub fn same_method(&self, other: &Metric) -> bool {
        let identity = |row: &Metric| (row.method.clone(), row.name.clone(), row.mixing.clone());
        identity(self) == identity(other) && self.spec == other.spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, spec: Value, library: &str) -> Metric {
        let subject = RunKey {
            method: "arrow".into(),
            name: name.into(),
            spec,
            library: library.into(),
            mixing: "outputs".into(),
        };
        subject.metric("mean", "rouge-l", &[1.0, 3.0])
    }

    #[test]
    fn methods_are_told_apart_by_their_whole_specification() {
        let spec = |k: usize| serde_json::json!({ "router": "arrow", "top_k": k });
        let two = row("arrow k=2", spec(2), "private");
        assert_eq!(two.label(), "arrow k=2 (private, outputs)");
        assert!(two.same_method(&row("arrow k=2", spec(2), "mbc")));
        assert!(!two.same_method(&row("arrow k=2", spec(3), "private")));
        assert!(!two.same_method(&row("other", spec(2), "private")));
    }

    #[test]
    fn figures_without_a_name_are_called_by_their_router() {
        let text = r#"{"method":"arrow","library":"mbc","mixing":"","task":"mean",
            "metric":"loss","mean":1.0,"stderr":0.0,"n":1}"#;
        let old: Metric = serde_json::from_str(text).unwrap();
        assert_eq!(old.label(), "arrow (mbc)");
    }

    #[test]
    fn tags_are_file_names() {
        let subject = RunKey {
            method: "arrow".into(),
            name: "arrow k=4 t=0.1".into(),
            library: "private".into(),
            mixing: "outputs".into(),
            ..RunKey::default()
        };
        assert_eq!(subject.tag(), "arrow-k4-t0.1-private-outputs");
    }
}
