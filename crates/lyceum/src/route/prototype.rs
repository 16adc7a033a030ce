//! Routing by prototypes: each expert has a direction per site, tokens go where they point.
//!
//! Arrow (arXiv:2405.11157): logits `|x . p_e| / T`. PhatGOOSE (arXiv:2402.05859): both sides
//! standardised over the width (eps 1e-5), `T = sqrt(d)`. Then top-k and a softmax over the k.
//! Equal logits go to the expert whose name comes first.

use std::collections::BTreeMap;

use candle_core::Tensor;
use lyceum_kernels::{norm, route};

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Gates, Pass, Router};
use crate::name::{Name, Site};

/// Added to a variance before its root is taken.
const EPS: f32 = 1e-5;

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
    rows: Vec<f32>,
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
            let d = one.elem_count();
            let rows = Tensor::stack(&full, 0)?.flatten_all()?.to_vec1::<f32>()?;
            let rows = match score {
                Score::Absolute { .. } => rows,
                Score::Standardised { .. } => standardise(&rows, d),
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
    fn gates(&self, site: &Site, x: &[f32], pass: &Pass<'_>) -> Result<Gates> {
        let directions = self
            .sites
            .get(site)
            .ok_or_else(|| Error::Mismatch(format!("the router has no prototypes at `{site}`")))?;
        let experts = directions.here.len();
        let d = directions.rows.len() / experts.max(1);
        if x.len() != pass.segments.tokens() * d {
            return Err(Error::Mismatch(format!(
                "the prototypes at `{site}` have another width"
            )));
        }
        let (score, temperature) = match self.score {
            Score::Absolute { temperature } => (route::Score::Absolute, temperature),
            Score::Standardised { temperature } => {
                let score = route::Score::Standardised { eps: EPS };
                (score, temperature.unwrap_or((d as f64).sqrt()))
            }
        };
        let to = route::Directions {
            rows: &directions.rows,
            here: &directions.here,
            score,
            temperature: temperature as f32,
        };
        let here = directions.here.iter().filter(|here| **here).count();
        let k = self.top_k.unwrap_or(experts).min(here);
        let (experts, weights) = route::choose(&to, x, k);
        Ok(Gates::chosen(k, experts, weights))
    }
}

/// The directions, end to end, with mean 0 and variance 1 each (biased variance).
fn standardise(rows: &[f32], d: usize) -> Vec<f32> {
    norm::layer_norm(rows, &vec![1.0; d], &vec![0.0; d], EPS)
}
