//! Which charts a report has.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::chart::{Bar, Bars, Chart, Heat, Kind, Mark, Panel, Panels, Scale};
use super::routed;
use super::story::{scale, subject};
use crate::metrics::{Curve, Metric, Similarity};

/// All charts that `report` has figures for.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let mut all = Vec::new();
    all.extend(means(report, "mean", "rouge-l", "rouge-l"));
    all.extend(by_task(report));
    let rows = report.rows.iter().filter(|r| r.metric == "acc");
    let downstream: BTreeSet<&str> = rows.map(|r| r.task.as_str()).collect();
    for task in downstream {
        let name = format!("downstream-{task}");
        all.extend(means(report, task, "acc", &name));
        all.extend(means(report, task, "acc_norm", &format!("{name}-norm")));
    }
    all.extend(report.similarity.iter().map(similarity));
    all.extend(routed::charts(report));
    all.extend(curves(report));
    all
}

/// A chart of its parts.
pub(super) fn chart(name: &str, title: &str, caption: String, kind: Kind) -> Chart {
    Chart {
        name: name.into(),
        title: title.into(),
        caption,
        kind,
    }
}

fn means(report: &Report, task: &str, metric: &str, name: &str) -> Option<Chart> {
    let all = report.rows.iter();
    let rows: Vec<&Metric> = all
        .filter(|r| r.metric == metric && r.task == task)
        .collect();
    let mut libraries: Vec<&str> = Vec::new();
    for row in &rows {
        if !libraries.contains(&row.library.as_str()) {
            libraries.push(&row.library);
        }
    }
    let scale = scale(metric);
    let place = |row: &Metric| libraries.iter().position(|l| *l == row.library);
    let bar = |row: &&Metric| Bar {
        label: row.label(),
        value: row.mean * scale,
        error: row.stderr * scale,
        group: place(row).unwrap_or(0),
    };
    let mut marks: Vec<Mark> = Vec::new();
    let mut mark = |label: &str, value: f64| {
        let label = format!("{label} {value:.1}");
        marks.push(Mark { value, label });
    };
    if let Some(base) = rows.iter().find(|r| r.method == "base")
        && rows.len() > 1
    {
        mark("base", base.mean * scale);
    }
    if let Some(chance) = report.chance.get(task) {
        mark("chance", chance * scale);
    }
    let mut title = subject(task, metric);
    if task == "mean" {
        title += ", mean over all test examples";
    }
    let n = rows.first()?.n;
    let unit = report.unit();
    let bars = Bars {
        x: if scale > 1.0 {
            "accuracy, %"
        } else {
            "ROUGE-L"
        }
        .into(),
        bars: rows.iter().map(bar).collect(),
        groups: libraries.iter().map(|l| library(l)).collect(),
        marks,
    };
    let caption = format!(
        "Whiskers are ± 1 standard error over {n} {unit}: two methods are compared by the table of \
         paired differences, not by whether their whiskers meet."
    );
    Some(chart(name, &title, caption, Kind::Bars(bars)))
}

fn library(name: &str) -> String {
    if name.is_empty() { "no experts" } else { name }.to_owned()
}

fn by_task(report: &Report) -> Option<Chart> {
    let rows: Vec<&Metric> = { report.rows.iter() }
        .filter(|r| r.metric == "rouge-l")
        .collect();
    let tasks: BTreeSet<&str> = rows.iter().map(|r| r.task.as_str()).collect();
    let mut tasks: Vec<&str> = tasks.into_iter().filter(|t| *t != "mean").collect();
    if tasks.is_empty() {
        return None;
    }
    let apart = tasks.len();
    tasks.push("mean");
    let mut methods: Vec<String> = Vec::new();
    let mut values: BTreeMap<(&str, String), f64> = BTreeMap::new();
    for row in &rows {
        let label = row.label();
        if !methods.contains(&label) {
            methods.push(label.clone());
        }
        values.insert((row.task.as_str(), label), row.mean);
    }
    let value = |task: &str, method: &String| {
        let value = values.get(&(task, method.clone()));
        value.copied().unwrap_or(f64::NAN)
    };
    let single = rows.iter().filter(|r| r.task != "mean");
    let error = single.clone().map(|r| r.stderr).fold(0.0, f64::max);
    let counts: BTreeSet<usize> = single.map(|r| r.n).collect();
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    let heat = Heat {
        values: { tasks.iter() }
            .map(|task| methods.iter().map(|m| value(task, m)).collect())
            .collect(),
        rows: tasks.iter().map(ToString::to_string).collect(),
        columns: methods,
        digits: 1,
        frames: Vec::new(),
        apart: Some(apart),
        scale: Scale {
            least: 0.0,
            most: 100.0,
            root: false,
        },
    };
    let caption = format!(
        "Each row is a task's test split ({} {} each, standard errors up to {error:.1}), each \
         column a way of using the experts. 0.0: no answer shares a word with its reference.",
        counts.join(" or "),
        report.unit()
    );
    let title = "ROUGE-L by task";
    Some(chart("rouge-l-by-task", title, caption, Kind::Heat(heat)))
}

/// Experts beside those of their own cluster, each cluster framed.
fn similarity(similarity: &Similarity) -> Chart {
    let place = |name: &String| similarity.names.iter().position(|n| n == name);
    let (mut order, mut frames) = (Vec::new(), Vec::new());
    for members in similarity.clusters.values() {
        let from = order.len();
        order.extend(members.iter().filter_map(place));
        frames.push((from, order.len()));
    }
    if order.len() != similarity.names.len() {
        (order, frames) = ((0..similarity.names.len()).collect(), Vec::new());
    }
    // An expert's likeness to itself is 1 and says nothing.
    let value = |i: usize, j: usize| match i == j {
        true => f64::NAN,
        false => similarity.cosines[i][j],
    };
    let numbered = order.iter().enumerate();
    let heat = Heat {
        values: { order.iter() }
            .map(|&i| order.iter().map(|&j| value(i, j)).collect())
            .collect(),
        columns: (1..=order.len()).map(|n| n.to_string()).collect(),
        rows: numbered
            .map(|(n, &i)| format!("{}  {}", similarity.names[i], n + 1))
            .collect(),
        digits: 2,
        frames,
        apart: None,
        scale: Scale {
            least: -1.0,
            most: 1.0,
            root: true,
        },
    };
    chart(
        &format!("similarity-{}", similarity.library),
        &format!("Similarity of experts ({})", similarity.library),
        "Cosine between the experts' sparsified weights; columns are the rows' numbers, frames the \
         MBC clusters. The colour follows the square root."
            .into(),
        Kind::Heat(heat),
    )
}

fn curves(report: &Report) -> Option<Chart> {
    let mut libraries: Vec<&str> = Vec::new();
    for curve in &report.curves {
        let library = curve.name.split('/').next().unwrap_or("");
        if !libraries.contains(&library) {
            libraries.push(library);
        }
    }
    let panel = |curve: &Curve| {
        let library = curve.name.split('/').next().unwrap_or("");
        let points = |losses: &[f64]| -> Vec<[f64; 2]> {
            let places = curve.steps.iter().map(|&step| step as f64);
            places.zip(losses).map(|(x, y)| [x, *y]).collect()
        };
        Panel {
            name: curve.name.clone(),
            points: points(&curve.losses),
            smooth: points(&smoothed(&curve.losses)),
            group: libraries.iter().position(|l| *l == library).unwrap_or(0),
        }
    };
    let panels = Panels {
        x: "step".into(),
        panels: report.curves.iter().map(panel).collect(),
    };
    let caption =
        "Cross-entropy of each training batch (faint) and its moving mean, one panel per \
                   expert, one colour per library, all over the same vertical axis."
            .to_owned();
    let some = !panels.panels.is_empty();
    some.then(|| {
        chart(
            "training-loss",
            "Training loss, nats per token",
            caption,
            Kind::Panels(panels),
        )
    })
}

/// The mean of an eighth of the values around each.
fn smoothed(values: &[f64]) -> Vec<f64> {
    let half = (values.len() / 16).max(1);
    let mean = |i: usize| {
        let around = &values[i.saturating_sub(half)..(i + half + 1).min(values.len())];
        around.iter().sum::<f64>() / around.len() as f64
    };
    (0..values.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::super::provenance_for_tests;
    use super::*;
    use crate::metrics::RunKey;

    #[test]
    fn bars_have_base_and_chance_and_percentages() {
        let mut report = Report::new("t".into(), provenance_for_tests());
        for (method, library, values) in [
            ("base", "", [1.0, 0.0, 0.0, 0.0]),
            ("arrow", "private", [1.0, 0.0, 1.0, 0.0]),
        ] {
            let subject = RunKey {
                method: method.into(),
                library: library.into(),
                ..RunKey::default()
            };
            report.rows.push(subject.metric("arc-easy", "acc", &values));
        }
        report.chance.insert("arc-easy".into(), 0.25);
        let all = charts(&report);
        assert_eq!(all.len(), 1);
        let Kind::Bars(bars) = &all[0].kind else {
            panic!("{all:?}")
        };
        assert_eq!((bars.bars[0].value, bars.bars[1].value), (25.0, 50.0));
        let marks: Vec<&str> = bars.marks.iter().map(|m| m.label.as_str()).collect();
        assert_eq!(marks, ["base 25.0", "chance 25.0"]);
        assert_eq!(bars.groups, ["no experts", "private"]);
    }

    #[test]
    fn smoothing_keeps_length_and_mean_level() {
        assert_eq!(smoothed(&[]), Vec::<f64>::new());
        assert_eq!(smoothed(&[3.0]), [3.0]);
        assert_eq!(smoothed(&[1.0, 2.0, 3.0]), [1.5, 2.0, 2.5]);
    }
}
