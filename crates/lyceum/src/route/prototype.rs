//! Routing by prototypes: each expert has a direction per site, tokens go where they point.
//!
//! Arrow (arXiv:2405.11157): logits `|x . p_e| / T`. PhatGOOSE (arXiv:2402.05859): both sides
//! standardised over the width (eps 1e-5), `T = sqrt(d)`. Then top-k and a softmax over the k.
//! Equal logits go to the expert whose name comes first.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Gates, Pass, Router};
use crate::name::{Name, Site};

/// How an input is compared with a prototype.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// `|x . p| / temperature` (Arrow).
    Absolute {
        /// Divides the logits.
        temperature: f64,
    },
    /// `norm(x) . norm(p) / temperature` (PhatGOOSE).
    Standardised {
        /// Divides the logits; `sqrt(d)` when absent.
        temperature: Option<f64>,
    },
}

#[derive(Debug)]
struct Directions {
    /// `[e, d_in]`, zero rows for experts that do not adapt the site.
    rows: Tensor,
    here: Vec<bool>,
}

/// A router over per-expert, per-site directions.
#[derive(Debug)]
pub struct Prototypes {
    sites: BTreeMap<Site, Directions>,
    score: Score,
    top_k: Option<usize>,
}

impl Prototypes {
    /// Stacks the directions of `artifacts` in the order of `experts`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when an expert's artifact lacks a site the expert adapts.
    pub fn new(
        experts: &[Expert],
        artifacts: &BTreeMap<Name, Artifact>,
        score: Score,
        top_k: Option<usize>,
    ) -> Result<Self> {
        let mut sites = BTreeMap::new();
        let all: std::collections::BTreeSet<&Site> =
            experts.iter().flat_map(|e| e.loras.keys()).collect();
        for site in all {
            let mut rows = Vec::new();
            let mut here = Vec::new();
            for expert in experts {
                let adapts = expert.loras.contains_key(site);
                let found = artifacts
                    .get(&expert.card.name)
                    .and_then(|a| a.vectors.get(site));
                here.push(adapts);
                match (adapts, found) {
                    (true, Some(vector)) => rows.push(Some(vector.clone())),
                    (false, _) => rows.push(None),
                    (true, None) => {
                        let name = &expert.card.name;
                        let text = format!("the artifact of expert `{name}` lacks `{site}`");
                        return Err(Error::Mismatch(text));
                    }
                }
            }
            let Some(one) = rows.iter().flatten().next().cloned() else {
                continue;
            };
            let full: Vec<Tensor> = rows
                .into_iter()
                .map(|row| row.map_or_else(|| one.zeros_like(), Ok))
                .collect::<Result<_, _>>()?;
            let rows = match score {
                Score::Absolute { .. } => Tensor::stack(&full, 0)?,
                Score::Standardised { .. } => standardise(&Tensor::stack(&full, 0)?)?,
            };
            sites.insert(site.clone(), Directions { rows, here });
        }
        Ok(Prototypes {
            sites,
            score,
            top_k,
        })
    }
}

impl Router for Prototypes {
    fn gates(&self, site: &Site, x: &Tensor, _: &Pass<'_>) -> Result<Gates> {
        let directions = self
            .sites
            .get(site)
            .ok_or_else(|| Error::Mismatch(format!("the router has no prototypes at `{site}`")))?;
        let (t, d) = x.dims2()?;
        let logits = match self.score {
            Score::Absolute { temperature } => {
                (x.matmul(&directions.rows.t()?)?.abs()? / temperature)?
            }
            Score::Standardised { temperature } => {
                let temperature = temperature.unwrap_or((d as f64).sqrt());
                (standardise(x)?.matmul(&directions.rows.t()?)? / temperature)?
            }
        };
        let experts = directions.here.len();
        let mut values = logits.flatten_all()?.to_vec1::<f32>()?;
        for row in values.chunks_mut(experts) {
            top_softmax(row, &directions.here, self.top_k.unwrap_or(experts));
        }
        Ok(Gates::Token(Tensor::from_vec(
            values,
            (t, experts),
            &Device::Cpu,
        )?))
    }
}

/// Rows with mean 0 and variance 1 over the last axis (biased variance, eps 1e-5).
fn standardise(x: &Tensor) -> Result<Tensor> {
    let d = x.dims2()?.1;
    let (one, zero) = (vec![1.0; d].into(), vec![0.0; d].into());
    Ok(crate::ops::frozen_norm(x, &one, &zero, 1e-5)?)
}

/// Replaces logits by the softmax over the `k` largest of those `here`, 0 elsewhere.
fn top_softmax(row: &mut [f32], here: &[bool], k: usize) {
    let mut order: Vec<usize> = (0..row.len()).filter(|&e| here[e]).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.truncate(k);
    let top = order.first().map_or(0.0, |&e| row[e]);
    let weights: Vec<f32> = order.iter().map(|&e| (row[e] - top).exp()).collect();
    let total: f32 = weights.iter().sum();
    row.fill(0.0);
    for (&e, weight) in order.iter().zip(weights) {
        row[e] = weight / total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_softmax_runs_over_the_chosen_only() {
        let mut row = [1.0, 3.0, 2.0, 9.0];
        top_softmax(&mut row, &[true, true, true, false], 2);
        let e = (1f32).exp();
        let want = [0.0, e / (1.0 + e), 1.0 / (1.0 + e), 0.0];
        assert!(
            row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
            "{row:?}"
        );
    }

    #[test]
    fn ties_go_to_the_first() {
        let mut row = [2.0, 2.0, 2.0];
        top_softmax(&mut row, &[true; 3], 1);
        assert_eq!(row, [1.0, 0.0, 0.0]);
    }
}
