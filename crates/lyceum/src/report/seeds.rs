//! One experiment under several seeds: each figure's mean and its standard error between the runs.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::paired::{Scores, compared};
use crate::error::{Error, Result};
use crate::metrics::{LayerRouting, Metric, Routing, Similarity, mean_stderr};

impl Report {
    /// The reports of one recipe under different seeds as one. Standard errors are those between
    /// the runs, `n` is their number; a cluster holds the experts that are together in every run.
    /// Losses by step and stages stay in the single reports.
    ///
    /// # Errors
    /// When there are fewer than two, seeds repeat, or the runs differ in more than their seeds.
    pub fn over_seeds(runs: &[Report]) -> Result<Report> {
        let seeds: BTreeSet<u64> = runs.iter().map(|run| run.provenance.seed).collect();
        if runs.len() < 2 || seeds.len() != runs.len() {
            let text = "a mean over seeds needs two reports or more, each of another seed";
            return Err(Error::invalid(text));
        }
        let first = &runs[0];
        if let Some(other) = runs.iter().find(|run| subject(run) != subject(first)) {
            return Err(Error::Mismatch(format!(
                "the runs of seeds {} and {} differ in more than the seed: recipe, base or methods",
                first.provenance.seed, other.provenance.seed
            )));
        }
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        let mut all = Report::new(
            format!("{}: seeds {}", first.title, seeds.join(", ")),
            first.provenance.clone(),
        );
        all.notes.push(format!(
            "Means over {} seeds; every ± is the standard error between the seeds, and methods are \
             compared seed by seed.",
            runs.len()
        ));
        // These are of one run.
        (all.provenance.date, all.provenance.command) = (None, None);
        all.rows = zip(runs, |run| &run.rows, row);
        all.scores = zip(runs, |run| &run.rows, scores);
        all.scores
            .retain(|scores| compared(&scores.task, &scores.metric));
        all.chance = first.chance.clone();
        all.seeds = runs.iter().map(|run| run.provenance.seed).collect();
        all.similarity = zip(runs, |run| &run.similarity, similarity);
        all.routing = zip(runs, |run| &run.routing, routing);
        Ok(all)
    }
}

/// The parts that must agree between runs: the recipe but for its seeds, the base, and the rows
/// measured.
fn subject(run: &Report) -> (String, String, Vec<String>) {
    let mut spec = run.provenance.spec.clone();
    seedless(&mut spec);
    let mut measured: Vec<String> = Vec::new();
    for row in &run.rows {
        measured.push(format!("{} {} {}", row.label(), row.task, row.metric));
    }
    for similarity in &run.similarity {
        measured.push(format!("{} {:?}", similarity.library, similarity.names));
    }
    for routing in &run.routing {
        let (layers, experts) = (routing.layers.len(), &routing.experts);
        let subject = format!("{} {}", routing.method, routing.library);
        measured.push(format!("{subject} {layers} {experts:?}"));
    }
    (
        spec.to_string(),
        run.provenance.base_fingerprint.clone(),
        measured,
    )
}

fn seedless(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.remove("seed");
        map.values_mut().for_each(seedless);
    }
}

/// Joins the parts at each place of the runs' lists.
fn zip<T, U>(
    runs: &[Report],
    part: impl Fn(&Report) -> &Vec<T>,
    join: impl Fn(&[&T]) -> U,
) -> Vec<U> {
    let places = 0..runs.iter().map(|run| part(run).len()).min().unwrap_or(0);
    let at = |i: usize| runs.iter().map(|run| &part(run)[i]).collect::<Vec<_>>();
    places.map(|i| join(&at(i))).collect()
}

fn row(rows: &[&Metric]) -> Metric {
    let means: Vec<f64> = rows.iter().map(|row| row.mean).collect();
    let (mean, stderr) = mean_stderr(&means);
    Metric {
        mean,
        stderr,
        n: rows.len(),
        ..rows[0].clone()
    }
}

/// The means of the runs, in their order, which is the same for every row.
fn scores(rows: &[&Metric]) -> Scores {
    Scores::of(rows[0], rows.iter().map(|row| row.mean))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    mean_stderr(&values.collect::<Vec<f64>>()).0
}

fn similarity(all: &[&Similarity]) -> Similarity {
    let first = all[0];
    let n = first.names.len();
    let cosine = |i: usize, j: usize| mean(all.iter().map(|s| s.cosines[i][j]));
    let mut together: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    for name in &first.names {
        let key = all.iter().map(|s| cluster(s, name)).collect();
        together.entry(key).or_default().push(name.clone());
    }
    let named = together.into_values().enumerate();
    Similarity {
        library: first.library.clone(),
        names: first.names.clone(),
        cosines: (0..n)
            .map(|i| (0..n).map(|j| cosine(i, j)).collect())
            .collect(),
        clusters: named
            .map(|(i, members)| (format!("together_{i}"), members))
            .collect(),
    }
}

/// The cluster that holds `name`; empty for none.
fn cluster<'a>(similarity: &'a Similarity, name: &String) -> &'a str {
    let holds = |(_, members): &(&String, &Vec<String>)| members.contains(name);
    similarity
        .clusters
        .iter()
        .find(holds)
        .map_or("", |(cluster, _)| cluster)
}

fn routing(all: &[&Routing]) -> Routing {
    let first = all[0];
    let layer = |(i, own): (usize, &LayerRouting)| {
        let of = |value: fn(&LayerRouting) -> f64| mean(all.iter().map(|r| value(&r.layers[i])));
        LayerRouting {
            layer: own.layer.clone(),
            own_share: of(|l| l.own_share),
            own_weight: of(|l| l.own_weight),
            entropy: of(|l| l.entropy),
        }
    };
    let chosen = mean(all.iter().map(|r| r.chosen));
    let load = |i: usize| mean(all.iter().map(|r| r.load[i]));
    Routing {
        layers: first.layers.iter().enumerate().map(layer).collect(),
        load: (0..first.load.len()).map(load).collect(),
        chosen,
        ..first.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::paired::Verdict;
    use super::super::provenance_for_tests;
    use super::*;
    use crate::metrics::RunKey;

    fn run(seed: u64, measured: &[(&str, f64)]) -> Report {
        let mut provenance = provenance_for_tests();
        provenance.seed = seed;
        let mut report = Report::new("t".into(), provenance);
        for (method, mean) in measured {
            let subject = RunKey {
                method: (*method).into(),
                ..RunKey::default()
            };
            let values = [mean - 1.0, mean + 1.0];
            report.rows.push(subject.metric("mean", "rouge-l", &values));
            report.scores(&subject, "mean", "rouge-l", values);
        }
        report.chance.insert("mean".into(), 0.0);
        report
    }

    #[test]
    fn methods_are_compared_seed_by_seed() {
        // Seeds differ by tens, the two methods by 2, 2.5 and 3.
        let runs = [
            run(1, &[("base", 10.0), ("arrow", 12.0)]),
            run(2, &[("base", 40.0), ("arrow", 42.5)]),
            run(3, &[("base", 70.0), ("arrow", 73.0)]),
        ];
        let all = Report::over_seeds(&runs).unwrap();
        assert_eq!(all.seeds, [1, 2, 3]);
        // The seeds do not sample the examples: nothing is compared with chance.
        let found = all.comparisons();
        assert_eq!(found.len(), 1);
        let difference = found[0].difference;
        assert_eq!((difference.mean, difference.n), (2.5, 3));
        // The deviation of 2, 2.5 and 3 is 0.5.
        assert!((difference.stderr - 0.5 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(difference.verdict(), Verdict::Above);
        assert!(all.rows[0].stderr > 10.0, "{}", all.rows[0].stderr);
        // Two of the runs: a difference of 9 errors, and 12.7 are asked for.
        let two = Report::over_seeds(&runs[..2]).unwrap();
        let difference = two.comparisons()[0].difference;
        assert!((difference.mean / difference.stderr - 9.0).abs() < 1e-9);
        assert_eq!(difference.verdict(), Verdict::Open);
        assert!(two.story()[0].contains("(2 seeds): not distinguishable: arrow"));
    }
}
