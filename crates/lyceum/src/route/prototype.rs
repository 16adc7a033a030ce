//! Routing by prototypes: each expert has a direction per site, tokens go where they point.
//!
//! Arrow (arXiv:2405.11157): logits `|x . p_e| / T`. PhatGOOSE (arXiv:2402.05859): both sides
//! standardised over the width (eps 1e-5), `T = sqrt(d)`. Then top-k and a softmax over the k.
//! Equal logits go to the expert whose name comes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use lyceum_kernels::{norm, route};

use super::table::{About, Inputs, Role};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::{Decision, DeviceGates, Gates, Gating, Input, Pass};
use crate::name::{Name, Site};
use crate::ops::candle::{self as ops, Placed};

/// `|x . p|` against the top singular direction of each expert's update.
pub(super) const ARROW: About = About {
    name: "arrow",
    what: "per token, by |x . top singular direction of B A|; no training",
    paper: "arXiv:2405.11157",
    role: Role::PerToken,
    artifact: Some("arrow"),
    settings: &["top_k", "temperature"],
    temperature: Some(1.0),
    build: Some(|inputs| {
        let temperature = inputs.temperature.unwrap_or(1.0);
        built(inputs, Score::Absolute { temperature })
    }),
};

/// Standardised inputs against trained gates.
pub(super) const PHATGOOSE: About = About {
    name: "phatgoose",
    what: "per token, by gates trained after the experts",
    paper: "arXiv:2402.05859",
    role: Role::PerToken,
    artifact: Some("phatgoose"),
    settings: &["top_k", "temperature"],
    temperature: None,
    build: Some(|inputs| {
        let temperature = inputs.temperature;
        built(inputs, Score::Standardised { temperature })
    }),
};

fn built(inputs: &Inputs<'_>, score: Score) -> Result<Arc<dyn Gating>> {
    let prototypes = Prototypes::new(inputs.experts, inputs.artifacts, score, inputs.top_k)?;
    Ok(Arc::new(prototypes))
}

/// Added to a variance before its root is taken.
const EPS: f32 = 1e-5;

/// Similarity of an input and a prototype.
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
    /// [`Directions::on`] the device that asked for them first.
    placed: Placed<(Tensor, Tensor)>,
}

impl Directions {
    /// Width of the input.
    fn width(&self) -> usize {
        self.rows.len() / self.here.len().max(1)
    }

    /// The directions of the experts that adapt the site as columns `[d_in, n]`, and those
    /// experts' indices `[n]`, on `device`.
    fn on(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        self.placed.on(device, || {
            let here = { self.here.iter().enumerate() }.filter(|(_, here)| **here);
            let here: Vec<u32> = here.map(|(e, _)| e as u32).collect();
            let here = Tensor::new(here, device)?;
            let shape = (self.here.len(), self.width());
            let rows = Tensor::from_slice(&self.rows, shape, device)?;
            let columns = rows.index_select(&here, 0)?.t()?.contiguous()?;
            Ok((columns, here))
        })
    }
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
            let placed = Placed::new();
            sites.insert(site.clone(), Directions { rows, here, placed });
        }
        Ok(Prototypes {
            sites,
            score,
            top_k,
        })
    }
}

impl Prototypes {
    /// The directions at `site` for `n` values of input over the tokens of `pass`, how they are
    /// compared, what divides the scores, and how many are chosen.
    fn at(
        &self,
        site: &Site,
        n: usize,
        pass: &Pass<'_>,
    ) -> Result<(&Directions, route::Similarity, f64, usize)> {
        let directions = self
            .sites
            .get(site)
            .ok_or_else(|| Error::Mismatch(format!("the router has no prototypes at `{site}`")))?;
        let d = directions.width();
        if n != pass.seq_lens.tokens() * d {
            return Err(Error::Mismatch(format!(
                "the prototypes at `{site}` have another width"
            )));
        }
        let (similarity, temperature) = match self.score {
            Score::Absolute { temperature } => (route::Similarity::Absolute, temperature),
            Score::Standardised { temperature } => {
                let similarity = route::Similarity::Standardised { eps: EPS };
                (similarity, temperature.unwrap_or((d as f64).sqrt()))
            }
        };
        let here = directions.here.iter().filter(|here| **here).count();
        let k = self.top_k.unwrap_or(here).min(here);
        Ok((directions, similarity, temperature, k))
    }
}

impl Gating for Prototypes {
    fn gates(&self, site: &Site, x: Input<'_>, pass: &Pass<'_>) -> Result<Decision> {
        let (directions, similarity, temperature, k) = self.at(site, x.elem_count(), pass)?;
        let x = match x {
            Input::Host(x) => {
                let to = route::Directions {
                    rows: &directions.rows,
                    here: &directions.here,
                    similarity,
                    temperature: temperature as f32,
                };
                let (experts, weights) = route::choose(&to, x, k);
                return Ok(Gates::known(k, experts, weights).into());
            }
            Input::Device(x) => x.detach(),
        };
        let (columns, here) = directions.on(x.device())?;
        let scores = match similarity {
            route::Similarity::Absolute => x.matmul(&columns)?.abs()?,
            route::Similarity::Standardised { eps } => {
                let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
                let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
                let spread = (variance + f64::from(eps))?.sqrt()?;
                x.broadcast_div(&spread)?.matmul(&columns)?
            }
        };
        let (places, scores) = ops::top_k(&(scores / temperature)?, k)?;
        let experts = here.index_select(&places.flatten_all()?, 0)?;
        let experts = experts.reshape(places.shape())?;
        let weights = ops::softmax(&scores)?;
        Ok(Decision::Device(DeviceGates::new(experts, weights)?))
    }
}

/// The directions, end to end, with mean 0 and variance 1 each (biased variance).
fn standardise(rows: &[f32], d: usize) -> Vec<f32> {
    norm::layer_norm(rows, &vec![1.0; d], &vec![0.0; d], EPS)
}
