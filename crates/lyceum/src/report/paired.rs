//! Comparisons of methods measured on the same examples: the error of a difference is that of the
//! differences, example by example.
//!
//! Two methods' own errors added say how sure their difference would be on two samples of their
//! own. On one sample most of what makes a score large or small is the example, and it cancels.

mod difference;

use serde::{Deserialize, Serialize, Serializer};

pub use difference::{Difference, Verdict};

use super::Report;
use crate::metrics::{Metric, RunKey};
use crate::route::Role;

/// The value of each example behind a row; in a report over seeds that of each run. All rows of
/// one task and metric have theirs in the same order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The row's label.
    pub label: String,
    /// The row's task.
    pub task: String,
    /// The row's metric.
    pub metric: String,
    /// The values, to six digits after the point.
    #[serde(serialize_with = "compact")]
    pub values: Vec<f64>,
}

/// Whole numbers without a point: most scores are 0, 1 or 100.
fn compact<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|&value| {
        match value.fract() == 0.0 && value.abs() < 1e15 {
            true => serde_json::Number::from(value as i64),
            false => serde_json::Number::from_f64(value).unwrap_or_else(|| 0.into()),
        }
    }))
}

impl Scores {
    /// The values behind the figure of `subject`.
    pub fn new(
        subject: &RunKey,
        task: &str,
        metric: &str,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        Scores::of(&subject.metric(task, metric, &[]), values)
    }

    /// The values behind `row`.
    pub(super) fn of(row: &Metric, values: impl IntoIterator<Item = f64>) -> Self {
        let values = values.into_iter();
        Scores {
            label: row.label(),
            task: row.task.clone(),
            metric: row.metric.clone(),
            values: values.map(|value| (value * 1e6).round() / 1e6).collect(),
        }
    }

    fn behind(&self, row: &Metric) -> bool {
        self.task == row.task && self.metric == row.metric && self.label == row.label()
    }
}

/// The kind of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Against {
    /// A method and the base alone.
    Base,
    /// A router and the even mixture of the same experts.
    Uniform,
    /// Two routers over the same experts.
    Gating,
    /// The same router over two libraries.
    Library,
    /// A method and the oracle over the same experts.
    Oracle,
    /// A method and a blind choice.
    Chance,
}

/// Two methods on the same examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The kind of comparison.
    pub against: Against,
    /// The first method's label.
    pub a: String,
    /// The second's.
    pub b: String,
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// The first minus the second.
    pub difference: Difference,
}

impl Report {
    /// Keeps the value of each example behind the figure of `subject`, for comparisons.
    pub fn scores(
        &mut self,
        subject: &RunKey,
        task: &str,
        metric: &str,
        values: impl IntoIterator<Item = f64>,
    ) {
        let scores = Scores::new(subject, task, metric, values);
        self.scores.push(scores);
    }

    /// The comparisons a reader looks for, by task and metric, then by what they are about:
    /// ROUGE-L over all examples, and accuracies.
    pub fn comparisons(&self) -> Vec<Comparison> {
        let mut measures: Vec<(&str, &str)> = Vec::new();
        for scores in &self.scores {
            let measure = (scores.task.as_str(), scores.metric.as_str());
            if compared(measure.0, measure.1) && !measures.contains(&measure) {
                measures.push(measure);
            }
        }
        let mut all = Vec::new();
        for (task, metric) in measures {
            let rows = self.rows.iter();
            let of = rows.filter(|row| row.task == task && row.metric == metric);
            let of: Vec<(&Metric, &[f64])> = of
                .filter_map(|row| {
                    let own = self.scores.iter().find(|scores| scores.behind(row))?;
                    Some((row, own.values.as_slice()))
                })
                .collect();
            let mut found = between(&of);
            // Between seeds the examples stay the same, and so does what chance is measured by.
            if let Some(&chance) = self.chance.get(task)
                && self.seeds.is_empty()
            {
                found.extend(
                    of.iter()
                        .filter_map(|(row, values)| blind(row, values, chance)),
                );
            }
            found.sort_by_key(|comparison| comparison.against);
            all.extend(found);
        }
        all
    }
}

/// Returns `true` if methods are compared by this task and metric.
pub(super) fn compared(task: &str, metric: &str) -> bool {
    matches!(
        (task, metric),
        ("mean", "rouge-l") | (_, "acc" | "acc_norm")
    )
}

fn between(rows: &[(&Metric, &[f64])]) -> Vec<Comparison> {
    let mut found = Vec::new();
    for (i, (a, scores)) in rows.iter().enumerate() {
        for (j, (b, others)) in rows.iter().enumerate() {
            if i != j
                && let Some(against) = against(a, b, i > j)
                && let Some(difference) = Difference::paired(scores, others)
            {
                found.push(Comparison {
                    against,
                    a: a.label(),
                    b: b.label(),
                    task: a.task.clone(),
                    metric: a.metric.clone(),
                    difference,
                });
            }
        }
    }
    found
}

fn blind(row: &Metric, values: &[f64], chance: f64) -> Option<Comparison> {
    Some(Comparison {
        against: Against::Chance,
        a: row.label(),
        b: "chance".into(),
        task: row.task.clone(),
        metric: row.metric.clone(),
        difference: Difference::paired(values, &vec![chance; values.len()])?,
    })
}

/// The kind of comparison between `a` and `b`; `later` is `true` if `a` comes after `b`. `None` if
/// the pair is not compared.
fn against(a: &Metric, b: &Metric, later: bool) -> Option<Against> {
    let experts = a.library == b.library;
    let alike = experts && a.mixing == b.mixing;
    match (role(a), role(b)) {
        (Role::Base, _) => None,
        (_, Role::Base) => Some(Against::Base),
        (Role::PerToken, Role::Fixed) if alike => Some(Against::Uniform),
        (own, Role::Oracle) if own != Role::Oracle && experts => Some(Against::Oracle),
        _ if !later => None,
        _ if !experts => a.same_method(b).then_some(Against::Library),
        (Role::PerToken, Role::PerToken) if alike => Some(Against::Gating),
        _ => None,
    }
}

/// The part that a figure's method plays. A report may name a router that this process does not
/// have; such a one decides by token.
fn role(row: &Metric) -> Role {
    crate::route::about(&row.method).map_or(Role::PerToken, |about| about.role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, library: &str, metric: &str) -> (RunKey, String) {
        let subject = RunKey {
            method: method.into(),
            library: library.into(),
            ..RunKey::default()
        };
        (subject, metric.into())
    }

    /// A report over the given values of each method.
    fn report(measured: &[(&str, &str, &[f64])]) -> Report {
        let mut report = Report::new("t".into(), super::super::provenance_for_tests());
        for (method, library, values) in measured {
            let (subject, metric) = row(method, library, "rouge-l");
            report.rows.push(subject.metric("mean", &metric, values));
            report.scores(&subject, "mean", &metric, values.iter().copied());
        }
        report
    }

    #[test]
    fn pairs_tell_what_two_errors_added_do_not() {
        // Examples differ much, methods by about 2 on every one.
        let base: Vec<f64> = (0..20).map(|i| f64::from(i) * 5.0).collect();
        let better: Vec<f64> = { base.iter().enumerate() }
            .map(|(i, x)| x + 2.0 + 0.1 * (i % 3) as f64)
            .collect();
        let report = report(&[("base", "", &base), ("oracle", "private", &better)]);
        let (base, oracle) = (&report.rows[0], &report.rows[1]);
        let added = oracle.stderr.hypot(base.stderr);
        assert!(oracle.mean - base.mean < 0.3 * added, "{added}");
        let found = report.comparisons();
        assert_eq!(found.len(), 1);
        let difference = found[0].difference;
        assert_eq!(difference.verdict(), Verdict::Above);
        assert!(difference.stderr < added / 100.0);
        assert_eq!(
            (found[0].a.as_str(), found[0].b.as_str()),
            (oracle.label().as_str(), "base")
        );
    }

    #[test]
    fn the_comparisons_are_those_a_reader_looks_for() {
        let v: &[f64] = &[1.0, 2.0];
        let mut report = report(&[
            ("base", "", v),
            ("oracle", "private", v),
            ("uniform", "private", v),
            ("arrow", "private", v),
            ("phatgoose", "private", v),
            ("oracle", "mbc", v),
            ("arrow", "mbc", v),
        ]);
        report.chance.insert("mean".into(), 0.5);
        let found = report.comparisons();
        let count = |what: Against| found.iter().filter(|c| c.against == what).count();
        assert_eq!(count(Against::Base), 6);
        assert_eq!(count(Against::Uniform), 2);
        assert_eq!(count(Against::Library), 2);
        assert_eq!(count(Against::Oracle), 4);
        assert_eq!(count(Against::Chance), 7);
        let routers: Vec<_> = { found.iter() }
            .filter(|c| c.against == Against::Gating)
            .map(|c| (c.a.as_str(), c.b.as_str()))
            .collect();
        assert_eq!(routers, [("phatgoose (private)", "arrow (private)")]);
    }

    #[test]
    fn scores_are_short_and_come_back_as_they_were() {
        let report = report(&[("base", "", &[0.0, 100.0, 100.0 / 3.0, 0.1 + 0.2])]);
        let text = serde_json::to_string(&report.scores[0].values).unwrap();
        assert_eq!(report.scores[0].values, [0.0, 100.0, 33.333333, 0.3]);
        assert!(text.contains("33.333333"), "{text}");
        let text = serde_json::to_string(&report.scores).unwrap();
        assert!(text.contains("[0,100,33.333333,0.3]"), "{text}");
        let back: Vec<Scores> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, report.scores);
    }
}
