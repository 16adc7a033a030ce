//! Which charts a report has.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::chart::{Bar, Bars, Chart, Heat, Kind, Lines, Mark, Panel, Panels, Scale};
use super::story::{scale, subject};
use crate::figure::{Curve, LayerRouting, Routing, Row, Similarity};

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
    all.extend(routing(report));
    all.extend(curves(report));
    all
}

fn chart(name: &str, title: &str, caption: String, kind: Kind) -> Chart {
    Chart {
        name: name.into(),
        title: title.into(),
        caption,
        kind,
    }
}

fn means(report: &Report, task: &str, metric: &str, name: &str) -> Option<Chart> {
    let all = report.rows.iter();
    let rows: Vec<&Row> = all
        .filter(|r| r.metric == metric && r.task == task)
        .collect();
    let mut libraries: Vec<&str> = Vec::new();
    for row in &rows {
        if !libraries.contains(&row.library.as_str()) {
            libraries.push(&row.library);
        }
    }
    let scale = scale(metric);
    let place = |row: &Row| libraries.iter().position(|l| *l == row.library);
    let bar = |row: &&Row| Bar {
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
    let rows: Vec<&Row> = { report.rows.iter() }
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

fn routing(report: &Report) -> Vec<Chart> {
    let all = || report.routing.iter();
    // Where every expert is chosen, its own always is, and the chart would show a perfect router.
    let (chosen, whole): (Vec<&Routing>, Vec<&Routing>) =
        all().partition(|r| r.chosen + 1e-6 < r.experts.len() as f64);
    let mut charts = Vec::new();
    if !chosen.is_empty() {
        let left_out = match whole.is_empty() {
            true => String::new(),
            false => {
                let names: Vec<String> = whole.iter().map(|r| routed(r)).collect();
                format!(
                    " Left out, since they choose all experts: {}.",
                    names.join(", ")
                )
            }
        };
        let chance = references(&chosen, |r| Mark {
            value: r.chosen / r.experts.len() as f64,
            label: format!("chance {} / {}", count(r.chosen), r.experts.len()),
        });
        let even = references(&chosen, |r| Mark {
            value: r.chosen.ln(),
            label: format!("even split of {}", count(r.chosen)),
        });
        charts.push(chart(
            "routing-own",
            "Tokens that reach the expert of their own task",
            format!(
                "Share of tokens whose chosen experts include their own task's, by layer of the \
                 base. With k of n experts chosen blindly it is k / n.{left_out}"
            ),
            layers(&chosen, "share of tokens", |l| l.own_share, chance),
        ));
        charts.push(chart(
            "routing-entropy",
            "Entropy of the gates",
            format!(
                "In nats, by layer: 0 is one expert alone, ln k an even split among k.{left_out}"
            ),
            layers(&chosen, "nats", |l| l.entropy, even),
        ));
    }
    let libraries: BTreeSet<&str> = all().map(|r| r.library.as_str()).collect();
    charts.extend(libraries.into_iter().map(|library| {
        let of: Vec<&Routing> = all().filter(|r| r.library == library).collect();
        load(library, &of)
    }));
    charts
}

fn routed(routing: &Routing) -> String {
    format!("{} ({})", routing.method, routing.library)
}

/// A number of experts: 2, or 1.8 where gates became 0.
fn count(chosen: f64) -> String {
    match (chosen - chosen.round()).abs() < 0.05 {
        true => format!("{chosen:.0}"),
        false => format!("{chosen:.1}"),
    }
}

/// A dashed line for each height that `mark` finds, beside those of the methods.
fn references(all: &[&Routing], mark: impl Fn(&Routing) -> Mark) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for routing in all.iter().filter(|r| r.chosen > 0.0) {
        let new = mark(routing);
        if marks.iter().all(|known| known.label != new.label) {
            marks.push(new);
        }
    }
    marks
}

fn layers(all: &[&Routing], y: &str, pick: fn(&LayerRouting) -> f64, marks: Vec<Mark>) -> Kind {
    let line = |r: &&Routing| {
        let points = r.layers.iter();
        let points = points.map(|l| (l.layer.parse::<f64>().unwrap_or(f64::NAN), pick(l)));
        (routed(r), points.collect())
    };
    Kind::Lines(Lines {
        x: "layer".into(),
        y: y.into(),
        lines: all.iter().map(line).collect(),
        marks,
        whole: true,
    })
}

fn load(library: &str, of: &[&Routing]) -> Chart {
    let experts = of.first().map_or(&[][..], |r| r.experts.as_slice());
    let share = |r: &Routing, e: usize| r.load.get(e).copied().unwrap_or(f64::NAN);
    let heat = Heat {
        values: (0..experts.len())
            .map(|e| of.iter().map(|r| share(r, e)).collect())
            .collect(),
        rows: experts.to_vec(),
        columns: of.iter().map(|r| r.method.clone()).collect(),
        digits: 2,
        frames: Vec::new(),
        apart: None,
        scale: Scale {
            least: 0.0,
            most: 1.0,
            root: true,
        },
    };
    chart(
        &format!("routing-load-{library}"),
        &format!("Load per expert ({library})"),
        format!(
            "Share of the gate weight each expert receives over the test rows; evenly it would be \
             {:.2}. The colour follows the square root.",
            1.0 / experts.len().max(1) as f64
        ),
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
        let places = || curve.steps.iter().map(|&step| step as f64);
        Panel {
            name: curve.name.clone(),
            points: places().zip(curve.losses.iter().copied()).collect(),
            smooth: places().zip(smoothed(&curve.losses)).collect(),
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
            "Training loss",
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
    use crate::figure::Subject;

    fn routing_of(method: &str, chosen: f64, experts: usize) -> Routing {
        let layer = |i: usize| LayerRouting {
            layer: i.to_string(),
            own_share: 0.5,
            own_weight: 0.3,
            entropy: 0.6,
        };
        Routing {
            method: method.into(),
            library: format!("of{experts}"),
            layers: (0..4).map(layer).collect(),
            experts: (0..experts).map(|i| format!("e{i}")).collect(),
            load: vec![1.0 / experts as f64; experts],
            chosen,
        }
    }

    #[test]
    fn routers_that_choose_all_are_left_out_and_chance_is_drawn() {
        let mut report = Report::new("t".into(), provenance_for_tests());
        report.routing = vec![
            routing_of("arrow", 2.0, 10),
            routing_of("arrow k=4", 4.0, 10),
            routing_of("arrow", 2.0, 2),
        ];
        let charts = charts(&report);
        let own = charts.iter().find(|c| c.name == "routing-own").unwrap();
        let Kind::Lines(lines) = &own.kind else {
            panic!("{own:?}")
        };
        let names: Vec<&str> = lines.lines.iter().map(|l| l.0.as_str()).collect();
        assert_eq!(names, ["arrow (of10)", "arrow k=4 (of10)"]);
        let marks: Vec<(&str, f64)> = { lines.marks.iter() }
            .map(|m| (m.label.as_str(), m.value))
            .collect();
        assert_eq!(marks, [("chance 2 / 10", 0.2), ("chance 4 / 10", 0.4)]);
        assert!(own.caption.contains("arrow (of2)"), "{}", own.caption);
        report.routing.truncate(0);
        report.routing.push(routing_of("arrow", 2.0, 2));
        assert!(
            super::charts(&report)
                .iter()
                .all(|c| c.name != "routing-own")
        );
    }

    #[test]
    fn bars_have_base_and_chance_and_percentages() {
        let mut report = Report::new("t".into(), provenance_for_tests());
        for (method, library, values) in [
            ("base", "", [1.0, 0.0, 0.0, 0.0]),
            ("arrow", "private", [1.0, 0.0, 1.0, 0.0]),
        ] {
            let subject = Subject {
                method: method.into(),
                library: library.into(),
                ..Subject::default()
            };
            report.rows.push(subject.row("arc-easy", "acc", &values));
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
