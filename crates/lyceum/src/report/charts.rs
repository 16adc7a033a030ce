//! Which charts a report has.

use std::collections::BTreeSet;

use super::Report;
use super::chart::{Bar, Chart, Heat, Kind, Lines};
use crate::figure::{LayerRouting, Row, Similarity};

/// All charts that `report` has figures for.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let mut all = Vec::new();
    all.extend(means(
        report,
        "rouge-l",
        "mean",
        "rouge-l",
        "ROUGE-L, mean over all test examples",
    ));
    all.extend(by_task(report));
    let downstream: BTreeSet<&str> = report
        .rows
        .iter()
        .filter(|r| r.metric == "acc")
        .map(|r| r.task.as_str())
        .collect();
    for task in downstream {
        let title = format!("{task}: accuracy by log-likelihood");
        all.extend(means(
            report,
            "acc",
            task,
            &format!("downstream-{task}"),
            &title,
        ));
    }
    all.extend(report.similarity.iter().map(similarity));
    all.extend(routing(report));
    all.extend(curves(report));
    all
}

fn chart(name: &str, title: &str, caption: &str, kind: Kind) -> Chart {
    Chart {
        name: name.into(),
        title: title.into(),
        caption: caption.into(),
        kind,
    }
}

fn means(report: &Report, metric: &str, task: &str, name: &str, title: &str) -> Option<Chart> {
    let libraries: BTreeSet<&str> = report.rows.iter().map(|r| r.library.as_str()).collect();
    let bar = |row: &Row| Bar {
        label: row.label(),
        value: row.mean,
        error: row.stderr,
        group: libraries
            .iter()
            .position(|l| *l == row.library)
            .unwrap_or(0),
    };
    let rows = report.rows.iter();
    let bars: Vec<Bar> = rows
        .filter(|r| r.metric == metric && r.task == task)
        .map(bar)
        .collect();
    let caption = "Whiskers are one standard error over the examples; one colour per library.";
    (!bars.is_empty()).then(|| chart(name, title, caption, Kind::Bars(bars)))
}

fn by_task(report: &Report) -> Option<Chart> {
    let rows = || {
        report
            .rows
            .iter()
            .filter(|r| r.metric == "rouge-l" && r.task != "mean")
    };
    let tasks: BTreeSet<&str> = rows().map(|r| r.task.as_str()).collect();
    let mut methods: Vec<String> = Vec::new();
    for row in rows() {
        if !methods.contains(&row.label()) {
            methods.push(row.label());
        }
    }
    let value = |task: &str, method: &String| {
        let row = rows().find(|r| r.task == task && r.label() == *method);
        row.map_or(f64::NAN, |r| r.mean)
    };
    let heat = Heat {
        values: tasks
            .iter()
            .map(|task| methods.iter().map(|m| value(task, m)).collect())
            .collect(),
        rows: tasks.iter().map(ToString::to_string).collect(),
        columns: methods,
        digits: 1,
        frames: Vec::new(),
    };
    let caption = "Each row is a task's test split, each column a way of using the experts.";
    (!heat.rows.is_empty()).then(|| {
        chart(
            "rouge-l-by-task",
            "ROUGE-L by task",
            caption,
            Kind::Heat(heat),
        )
    })
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
    let names: Vec<String> = order.iter().map(|&i| similarity.names[i].clone()).collect();
    // An expert's likeness to itself is 1 and would drown the rest.
    let value = |i: usize, j: usize| match i == j {
        true => f64::NAN,
        false => similarity.cosines[i][j],
    };
    let heat = Heat {
        values: order
            .iter()
            .map(|&i| order.iter().map(|&j| value(i, j)).collect())
            .collect(),
        columns: names.clone(),
        rows: names,
        digits: 2,
        frames,
    };
    chart(
        &format!("similarity-{}", similarity.library),
        &format!("Likeness of experts ({})", similarity.library),
        "Cosine between the experts' sparsified weights; frames are the MBC clusters.",
        Kind::Heat(heat),
    )
}

fn routing(report: &Report) -> Vec<Chart> {
    if report.routing.is_empty() {
        return Vec::new();
    }
    let lines = |y: &str, pick: fn(&LayerRouting) -> f64| {
        let line = |r: &super::Routing| {
            let points = r.layers.iter();
            let points = points.map(|l| (l.layer.parse::<f64>().unwrap_or(f64::NAN), pick(l)));
            (format!("{} ({})", r.method, r.library), points.collect())
        };
        Kind::Lines(Lines {
            x: "layer".into(),
            y: y.into(),
            lines: report.routing.iter().map(line).collect(),
        })
    };
    let mut all = vec![
        chart(
            "routing-own",
            "Tokens that reach the expert of their own task",
            "Share of tokens whose chosen experts include their own task's, by layer of the base. \
             With k of n experts chosen blindly it is k / n.",
            lines("share of tokens", |l| l.own_share),
        ),
        chart(
            "routing-entropy",
            "Entropy of the gates",
            "In nats, by layer: 0 is one expert alone, ln k an even split among k.",
            lines("nats", |l| l.entropy),
        ),
    ];
    let libraries: BTreeSet<&str> = report.routing.iter().map(|r| r.library.as_str()).collect();
    for library in libraries {
        let of: Vec<_> = report
            .routing
            .iter()
            .filter(|r| r.library == library)
            .collect();
        let experts = of[0].experts.clone();
        let heat = Heat {
            values: (0..experts.len())
                .map(|e| {
                    of.iter()
                        .map(|r| r.load.get(e).copied().unwrap_or(f64::NAN))
                        .collect()
                })
                .collect(),
            rows: experts,
            columns: of.iter().map(|r| r.method.clone()).collect(),
            digits: 2,
            frames: Vec::new(),
        };
        all.push(chart(
            &format!("routing-load-{library}"),
            &format!("Load per expert ({library})"),
            "Share of the gate weight each expert receives over the test rows.",
            Kind::Heat(heat),
        ));
    }
    all
}

fn curves(report: &Report) -> Option<Chart> {
    let line = |c: &super::Curve| {
        let points = c.steps.iter().zip(&c.losses);
        let points = points.map(|(&s, &l)| (s as f64, l)).collect();
        (c.name.clone(), points)
    };
    let lines = Lines {
        x: "step".into(),
        y: "loss".into(),
        lines: report.curves.iter().map(line).collect(),
    };
    let caption = "Cross-entropy of each training batch, per expert.";
    (!lines.lines.is_empty()).then(|| {
        chart(
            "training-loss",
            "Training loss",
            caption,
            Kind::Lines(lines),
        )
    })
}
