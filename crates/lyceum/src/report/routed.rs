//! Charts of where tokens went.

use std::collections::BTreeSet;

use super::Report;
use super::chart::{Chart, Heat, Kind, Lines, Mark, Scale};
use super::charts::chart;
use crate::metrics::{LayerRouting, Routing};

/// The charts of where tokens went.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let all = || report.routing.iter();
    // Where every expert is chosen, its own always is, and the chart would show a perfect router.
    let (chosen, whole): (Vec<&Routing>, Vec<&Routing>) =
        all().partition(|r| r.chosen + 1e-6 < r.experts.len() as f64);
    let mut found = Vec::new();
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
        found.push(chart(
            "routing-own",
            "Tokens that reach the expert of their own task",
            format!(
                "Share of tokens whose chosen experts include their own task's, by layer of the \
                 base. With k of n experts chosen blindly it is k / n.{left_out}"
            ),
            layers(&chosen, "share of tokens", |l| l.own_share, chance),
        ));
        found.push(chart(
            "routing-entropy",
            "Entropy of the gates",
            format!(
                "In nats, by layer: 0 is one expert alone, ln k an even split among k.{left_out}"
            ),
            layers(&chosen, "nats", |l| l.entropy, even),
        ));
    }
    let libraries: BTreeSet<&str> = all().map(|r| r.library.as_str()).collect();
    found.extend(libraries.into_iter().map(|library| {
        let of: Vec<&Routing> = all().filter(|r| r.library == library).collect();
        load(library, &of)
    }));
    found
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
        let points = points.map(|l| [l.layer.parse::<f64>().unwrap_or(f64::NAN), pick(l)]);
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

#[cfg(test)]
mod tests {
    use super::super::provenance_for_tests;
    use super::*;

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
        let all = charts(&report);
        let own = all.iter().find(|c| c.name == "routing-own").unwrap();
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
        assert!(charts(&report).iter().all(|c| c.name != "routing-own"));
    }
}
