//! The tables of a report, the same for markdown and HTML.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use super::Report;
use super::paired::{Comparison, Verdict};
use super::story::{scale, subject};
use crate::metrics::Metric;

/// A table as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Table {
    pub(super) title: &'static str,
    /// A note needed to read the table; empty for none.
    pub(super) note: String,
    /// Names of the columns.
    pub(super) head: Vec<String>,
    /// The number of leading columns of text; the others are numbers.
    pub(super) words: usize,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: &'static str, head: &[&str], words: usize) -> Self {
        Table {
            title,
            note: String::new(),
            head: head.iter().map(ToString::to_string).collect(),
            words,
            rows: Vec::new(),
        }
    }
}

/// Means over all examples, and accuracies.
pub(super) fn means(report: &Report) -> Table {
    let head = ["method", "measure", "mean", "± 1 standard error", "n"];
    let mut table = Table::new("Means", &head, 2);
    table.note = "Accuracies (acc…) are percentages, loss is nats per token.".into();
    let whole = |r: &&Metric| r.task == "mean" || r.metric.starts_with("acc");
    let mut rows: Vec<&Metric> = report.rows.iter().filter(whole).collect();
    // One measure after another, each as the methods stand.
    let mut order: Vec<(&str, &str)> = Vec::new();
    for row in &rows {
        let measure = (row.task.as_str(), row.metric.as_str());
        if !order.contains(&measure) {
            order.push(measure);
        }
    }
    let place = |row: &Metric| {
        let measure = (row.task.as_str(), row.metric.as_str());
        order.iter().position(|known| *known == measure)
    };
    rows.sort_by_key(|row| place(row));
    for row in rows {
        let scale = scale(&row.metric);
        let digits = if row.metric == "loss" { 4 } else { 2 };
        table.rows.push(vec![
            row.label(),
            subject(&row.task, &row.metric),
            format!("{:.digits$}", row.mean * scale),
            format!("{:.digits$}", row.stderr * scale),
            row.n.to_string(),
        ]);
    }
    table
}

/// The comparisons of methods.
pub(super) fn differences(report: &Report) -> Table {
    let unit = report.unit();
    let head = [
        "A",
        "B",
        "measure",
        "A − B",
        "± 1 standard error",
        "95 % interval",
        "n",
        "verdict",
    ];
    let mut table = Table::new("Paired differences", &head, 3);
    table.note = format!(
        "The same {unit} under two methods: the standard error is that of their differences, not \
         the two errors added. The interval is Student's with n − 1 degrees of freedom, for each \
         comparison by itself. Accuracies are percentages."
    );
    table.rows = report.comparisons().iter().map(difference).collect();
    table
}

fn difference(comparison: &Comparison) -> Vec<String> {
    let scale = scale(&comparison.metric);
    let d = comparison.difference;
    let interval = d.margin().map_or_else(String::new, |margin| {
        let (low, high) = ((d.mean - margin) * scale, (d.mean + margin) * scale);
        format!("{low:+.2} to {high:+.2}")
    });
    let verdict = match d.verdict() {
        Verdict::Above => "above",
        Verdict::Below => "below",
        Verdict::Open => "",
    };
    vec![
        comparison.a.clone(),
        comparison.b.clone(),
        subject(&comparison.task, &comparison.metric),
        format!("{:+.2}", d.mean * scale),
        format!("{:.2}", d.stderr * scale),
        interval,
        d.n.to_string(),
        verdict.into(),
    ]
}

/// ROUGE-L by task, the mean below.
pub(super) fn by_task(report: &Report) -> Table {
    let rows = || report.rows.iter().filter(|r| r.metric == "rouge-l");
    let means = rows().filter(|r| r.task == "mean");
    let labels: Vec<String> = means.map(Metric::label).collect();
    let mut table = Table::new("ROUGE-L by task", &["task"], 1);
    table.head.extend(labels.iter().cloned());
    let tasks: BTreeSet<&str> = rows().map(|r| r.task.as_str()).collect();
    let tasks = tasks.into_iter().filter(|t| *t != "mean");
    for task in tasks.chain(["mean"]) {
        let cell = |label: &String| {
            let row = rows().find(|r| r.task == task && r.label() == *label);
            row.map_or_else(String::new, |r| format!("{:.1}", r.mean))
        };
        let mut line = vec![task.to_owned()];
        line.extend(labels.iter().map(cell));
        table.rows.push(line);
    }
    if labels.is_empty() {
        table.rows.clear();
    }
    table
}

/// Which experts are together.
pub(super) fn clusters(report: &Report) -> Table {
    let mut table = Table::new("Clusters", &["cluster", "experts"], 2);
    for similarity in &report.similarity {
        for (name, members) in &similarity.clusters {
            table.rows.push(vec![name.clone(), members.join(", ")]);
        }
    }
    table
}

/// The settings of the run: the recipe's or the command's options, a row for each scalar.
pub(super) fn settings(report: &Report) -> Table {
    let mut table = Table::new("Settings", &["setting", "value"], 2);
    flat(&mut table.rows, "", &report.provenance.spec);
    table
}

fn flat(rows: &mut Vec<Vec<String>>, path: &str, value: &Value) {
    let join = |key: &str| match path.is_empty() {
        true => key.to_owned(),
        false => format!("{path}.{key}"),
    };
    match value {
        Value::Null => {}
        Value::Object(map) => {
            for (key, value) in map {
                flat(rows, &join(key), value);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, item) in items.iter().enumerate() {
                rows.push(vec![join(&(i + 1).to_string()), line(item)]);
            }
        }
        plain => {
            let text = line(plain);
            if !text.is_empty() {
                rows.push(vec![path.to_owned(), text]);
            }
        }
    }
}

/// A value in one line.
fn line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(line).collect();
            items.join(", ")
        }
        Value::Object(map) => {
            let known = map.iter().filter(|(_, value)| !value.is_null());
            let items: Vec<String> = known
                .map(|(key, value)| format!("{key} {}", line(value)))
                .collect();
            items.join(", ")
        }
        plain => plain.to_string(),
    }
}

/// The inputs read, with their versions and digests.
pub(super) fn sources(report: &Report) -> Table {
    let head = ["source", "place", "version", "SHA-256"];
    let mut table = Table::new("Sources", &head, 4);
    for source in &report.provenance.sources {
        let version = source.version.map_or_else(String::new, |v| v.to_string());
        table.rows.push(vec![
            source.what.clone(),
            source.place.clone(),
            version,
            source.fingerprint.chars().take(12).collect(),
        ]);
    }
    table
}

/// The stages of the run, with their durations.
pub(super) fn stages(report: &Report) -> Table {
    let head = ["stage", "", "seconds", "tokens/s", "peak memory, MiB"];
    let mut table = Table::new("Stages", &head, 2);
    for s in &report.stages {
        table.rows.push(vec![
            s.name.clone(),
            if s.resumed { "reused" } else { "" }.into(),
            format!("{:.1}", s.seconds),
            format!("{:.0}", s.tokens_per_second()),
            format!("{:.0}", s.peak_memory_mib),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_the_plain_values() {
        let spec = json!({
            "lora": {"rank": 4, "targets": ["q_proj", "v_proj"]},
            "library": null,
            "tasks": [],
            "methods": [{"router": "arrow", "top_k": 2, "temperature": null}],
        });
        let mut rows = Vec::new();
        flat(&mut rows, "", &spec);
        let rows: Vec<String> = rows.iter().map(|row| row.join(" = ")).collect();
        let want = [
            "lora.rank = 4",
            "lora.targets = q_proj, v_proj",
            "methods.1 = router arrow, top_k 2",
        ];
        assert_eq!(rows, want);
    }
}
