//! Summarises the figures in plain sentences.

use super::Report;
use super::paired::{Against, Comparison, Verdict};

impl Report {
    /// Summarises the comparisons of methods, one sentence for each kind.
    pub fn story(&self) -> Vec<String> {
        let all = self.comparisons();
        let told = |c: &&Comparison| c.metric != "acc_norm" && c.against != Against::Oracle;
        let mut lines: Vec<String> = all
            .iter()
            .filter(told)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| (&a.task, &a.metric, a.against) == (&b.task, &b.metric, b.against))
            .map(|some| self.sentence(some))
            .collect();
        if !lines.is_empty() {
            lines.push(
                "± is the standard error of the difference, pair by pair. Above and below are at \
                 95 % (Student's t), each comparison by itself."
                    .into(),
            );
        }
        let rows = self.rows.iter();
        let methods = rows.filter(|r| r.task == "mean" && r.metric == "rouge-l");
        if self.scores.is_empty() && methods.count() > 1 {
            lines.push(
                "The report keeps no scores of single examples, so that its methods cannot be \
                 compared pair by pair; run it again."
                    .into(),
            );
        }
        lines
    }

    fn sentence(&self, some: &[&Comparison]) -> String {
        let first = some[0];
        let of = |verdict: Verdict| {
            let with = some.iter().filter(|c| c.difference.verdict() == verdict);
            let texts: Vec<String> = with.map(|c| item(c)).collect();
            texts.join(", ")
        };
        let mut parts = Vec::new();
        for (word, verdict) in [
            ("above", Verdict::Above),
            ("below", Verdict::Below),
            ("not distinguishable", Verdict::Open),
        ] {
            let items = of(verdict);
            if !items.is_empty() {
                parts.push(format!("{word}: {items}"));
            }
        }
        let subject = subject(&first.task, &first.metric);
        let about = self.about(first);
        format!("{subject} {about}: {}.", parts.join("; "))
    }

    fn about(&self, comparison: &Comparison) -> String {
        let text = match comparison.against {
            Against::Base => "against the base",
            Against::Uniform => "against the even mixture of the same experts",
            Against::Gating => "of two routers over the same experts",
            Against::Library => "of one router over two libraries",
            Against::Oracle => "against the oracle",
            Against::Chance => "against chance",
        };
        let unit = self.unit();
        format!("{text} ({} {unit})", comparison.difference.n)
    }

    /// The unit of the samples behind a row: examples or seeds.
    pub(super) fn unit(&self) -> &'static str {
        match self.seeds.is_empty() {
            true => "examples",
            false => "seeds",
        }
    }
}

/// A measure as readers call it: `ROUGE-L`, `arc-easy acc`.
pub(super) fn subject(task: &str, metric: &str) -> String {
    let metric = match metric {
        "rouge-l" => "ROUGE-L",
        other => other,
    };
    match task {
        "mean" => metric.to_owned(),
        task => format!("{task} {metric}"),
    }
}

/// Display factor of a metric: accuracies are fractions and shown as percentages.
pub(super) fn scale(metric: &str) -> f64 {
    match metric.starts_with("acc") {
        true => 100.0,
        false => 1.0,
    }
}

fn item(comparison: &Comparison) -> String {
    let scale = scale(&comparison.metric);
    let pair = match comparison.against {
        Against::Gating | Against::Library => format!("{} − {}", comparison.a, comparison.b),
        _ => comparison.a.clone(),
    };
    let difference = comparison.difference;
    let (mean, error) = (difference.mean * scale, difference.stderr * scale);
    format!("{pair} {mean:+.1} ± {error:.1}")
}

#[cfg(test)]
mod tests {
    use super::super::provenance_for_tests;
    use super::*;
    use crate::metrics::RunKey;

    #[test]
    fn sentences_say_what_the_pairs_say() {
        let mut report = Report::new("t".into(), provenance_for_tests());
        let steady: Vec<f64> = (0..12)
            .map(|i| f64::from(i) * 5.0 + f64::from(i % 2))
            .collect();
        let base: Vec<f64> = (0..12).map(|i| f64::from(i) * 5.0 - 3.0).collect();
        for (method, values) in [("base", &base), ("oracle", &steady), ("uniform", &base)] {
            let subject = RunKey {
                method: method.into(),
                ..RunKey::default()
            };
            report.rows.push(subject.metric("mean", "rouge-l", values));
            report.scores(&subject, "mean", "rouge-l", values.iter().copied());
        }
        let story = report.story();
        assert_eq!(
            story[0],
            "ROUGE-L against the base (12 examples): above: oracle +3.5 ± 0.2; not \
             distinguishable: uniform +0.0 ± 0.0."
        );
        report.scores.clear();
        assert!(
            report.story()[0].contains("run it again"),
            "{:?}",
            report.story()
        );
    }
}
