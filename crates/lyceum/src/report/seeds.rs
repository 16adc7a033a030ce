//! One experiment under several seeds: each figure's mean and its standard error between the runs.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use crate::error::{Error, Result};
use crate::figure::{LayerRouting, Routing, Row, Similarity, mean_stderr};

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
            "Means over {} seeds; every ± is the standard error between the seeds.",
            runs.len()
        ));
        all.rows = zip(runs, |run| &run.rows, row);
        all.similarity = zip(runs, |run| &run.similarity, similarity);
        all.routing = zip(runs, |run| &run.routing, routing);
        Ok(all)
    }
}

/// What must be equal between runs: the recipe but for its seeds, the base, and what was measured.
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
fn zip<T>(runs: &[Report], part: impl Fn(&Report) -> &Vec<T>, join: impl Fn(&[&T]) -> T) -> Vec<T> {
    let places = 0..runs.iter().map(|run| part(run).len()).min().unwrap_or(0);
    let at = |i: usize| runs.iter().map(|run| &part(run)[i]).collect::<Vec<_>>();
    places.map(|i| join(&at(i))).collect()
}

fn row(rows: &[&Row]) -> Row {
    let means: Vec<f64> = rows.iter().map(|row| row.mean).collect();
    let (mean, stderr) = mean_stderr(&means);
    Row {
        mean,
        stderr,
        n: rows.len(),
        ..rows[0].clone()
    }
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
    let load = |i: usize| mean(all.iter().map(|r| r.load[i]));
    Routing {
        layers: first.layers.iter().enumerate().map(layer).collect(),
        load: (0..first.load.len()).map(load).collect(),
        ..first.clone()
    }
}
