//! Merges: many experts into one, from their weights alone.
//!
//! A merge's *specification* is the closed enum [`MergeSpec`] plus the table [`MERGES`]. `cat` is
//! exact: its output is the weighted sum of the experts' outputs, whatever their ranks, scales and
//! layers. The others work on A and B each on its own, as MTTL does, so that their result is of
//! the experts' own rank, with cross terms; they need equal ranks, scales and layers.

mod cat;
mod linear;
mod ties;
mod wudi;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::Lora;
use crate::name::{Name, Site};

/// Weights by expert; every expert merged has one.
pub type Weights = BTreeMap<Name, f64>;

/// Which merge, with its knobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "merge", rename_all = "lowercase", deny_unknown_fields)]
pub enum MergeSpec {
    /// The weighted mean of the A's and of the B's.
    Linear {
        /// Equal ones that sum to 1 when absent.
        #[serde(default)]
        weights: Option<Weights>,
    },
    /// Trim, elect signs, average what agrees.
    Ties {
        /// Share of each expert's values that is kept, the largest; above 0, at most 1.
        density: f64,
    },
    /// Least interference with every expert, by Adam.
    Wudi {
        /// Most updates per factor.
        steps: usize,
        /// Learning rate.
        lr: f64,
    },
    /// Concatenation along the rank axis.
    Cat {
        /// Equal ones that sum to 1 when absent.
        #[serde(default)]
        weights: Option<Weights>,
    },
}

/// One row of the merges' table.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name on the command line and in JSON.
    pub name: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// The settings it takes.
    pub knobs: &'static [&'static str],
}

/// Every merge there is.
pub const MERGES: &[About] = &[
    About {
        name: "linear",
        what: "weighted mean of the A's and of the B's (MTTL's weighted linear merge)",
        paper: "arXiv:2203.05482",
        knobs: &["weights"],
    },
    About {
        name: "ties",
        what: "keep the largest values, elect a sign each, average those that agree",
        paper: "arXiv:2306.01708",
        knobs: &["density"],
    },
    About {
        name: "wudi",
        what: "least interference with every expert, by gradient descent on the weights",
        paper: "arXiv:2503.08099",
        knobs: &["steps", "lr"],
    },
    About {
        name: "cat",
        what: "exact weighted sum of the outputs, by concatenation; any ranks, scales and layers",
        paper: "-",
        knobs: &["weights"],
    },
];

/// What was set by name, for any merge.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    /// Weights by expert.
    pub weights: Option<Weights>,
    /// Share kept.
    pub density: Option<f64>,
    /// Updates.
    pub steps: Option<usize>,
    /// Learning rate.
    pub lr: Option<f64>,
}

impl MergeSpec {
    /// The merge called `name`, with MTTL's defaults for what `knobs` leaves open.
    ///
    /// # Errors
    /// When no merge is called so, it has no such knob, or a value is out of range.
    pub fn new(name: &str, knobs: Knobs) -> Result<Self> {
        let about = MERGES.iter().find(|about| about.name == name);
        let Some(about) = about else {
            let names = MERGES.iter().map(|about| about.name);
            return Err(Error::not_found("merge", name, names));
        };
        let given = [
            ("weights", knobs.weights.is_some()),
            ("density", knobs.density.is_some()),
            ("steps", knobs.steps.is_some()),
            ("lr", knobs.lr.is_some()),
        ];
        let stray = |(knob, set): &&(&str, bool)| *set && !about.knobs.contains(knob);
        if let Some((knob, _)) = given.iter().find(stray) {
            let text = format!("merge `{name}` has no setting `{knob}`");
            return Err(Error::invalid(text));
        }
        let spec = match name {
            "linear" => MergeSpec::Linear {
                weights: knobs.weights,
            },
            "ties" => MergeSpec::Ties {
                density: knobs.density.unwrap_or(0.2),
            },
            "wudi" => MergeSpec::Wudi {
                steps: knobs.steps.unwrap_or(300),
                lr: knobs.lr.unwrap_or(1e-5),
            },
            _ => MergeSpec::Cat {
                weights: knobs.weights,
            },
        };
        spec.check().map(|()| spec)
    }

    /// The row of [`MERGES`] for this merge.
    pub fn about(&self) -> &'static About {
        let row = match self {
            MergeSpec::Linear { .. } => 0,
            MergeSpec::Ties { .. } => 1,
            MergeSpec::Wudi { .. } => 2,
            MergeSpec::Cat { .. } => 3,
        };
        &MERGES[row]
    }

    fn check(&self) -> Result<()> {
        let good = match self {
            MergeSpec::Linear { weights } | MergeSpec::Cat { weights } => {
                let mut all = weights.iter().flat_map(BTreeMap::values);
                all.all(|w| w.is_finite())
            }
            MergeSpec::Ties { density } => *density > 0.0 && *density <= 1.0,
            MergeSpec::Wudi { steps, lr } => *steps > 0 && *lr > 0.0 && lr.is_finite(),
        };
        let text = "weights must be numbers, density above 0 and at most 1, steps and lr above 0";
        good.then_some(()).ok_or_else(|| Error::invalid(text))
    }
}

/// Merges `experts` into one called `name`; their order does not matter.
///
/// # Errors
/// [`Error::Mismatch`] when the experts are of different bases, or (but for `cat`) have different
/// layers, ranks or scales; [`Error::Invalid`] when weights and experts do not have the same names.
pub fn merge(experts: &[Expert], spec: &MergeSpec, name: &Name) -> Result<Expert> {
    spec.check()?;
    let mut experts: Vec<&Expert> = experts.iter().collect();
    experts.sort_by(|a, b| a.card.name.cmp(&b.card.name));
    let first = *experts
        .first()
        .ok_or_else(|| Error::invalid("there is no expert to merge"))?;
    if let Some(other) = experts.iter().find(|e| e.card.base != first.card.base) {
        return Err(Error::Mismatch(format!(
            "experts `{}` and `{}` belong to different bases ({} and {})",
            first.card.name, other.card.name, first.card.base_name, other.card.base_name
        )));
    }
    let (lora, loras) = match spec {
        MergeSpec::Cat { weights } => cat::merge(&experts, &shares(&experts, weights.as_ref())?)?,
        _ => {
            alike(&experts)?;
            (first.card.lora.clone(), by_factor(&experts, spec)?)
        }
    };
    let tasks: BTreeSet<Name> = experts.iter().flat_map(|e| e.card.tasks.clone()).collect();
    let from: BTreeMap<&Name, &str> = experts
        .iter()
        .map(|e| (&e.card.name, e.fingerprint()))
        .collect();
    let card = Card {
        name: name.clone(),
        base: first.card.base.clone(),
        base_family: first.card.base_family.clone(),
        base_name: first.card.base_name.clone(),
        tasks: tasks.into_iter().collect(),
        lora,
        origin: json!({
            "merge": spec,
            "experts": from,
            "by": concat!("lyceum ", env!("CARGO_PKG_VERSION")),
        }),
        losses: Vec::new(),
        weights: String::new(),
    };
    Expert::new(card, loras)
}

/// The weight of each expert, in their order.
fn shares(experts: &[&Expert], weights: Option<&Weights>) -> Result<Vec<f64>> {
    let Some(weights) = weights else {
        return Ok(vec![1.0 / experts.len() as f64; experts.len()]);
    };
    let names: BTreeSet<&Name> = experts.iter().map(|e| &e.card.name).collect();
    if let Some(stray) = weights.keys().find(|name| !names.contains(name)) {
        let names = names.iter().map(|name| name.as_str());
        return Err(Error::not_found("expert", stray.as_str(), names));
    }
    let weight = |e: &&Expert| {
        let name = &e.card.name;
        let lacking = || Error::invalid(format!("expert `{name}` is merged but has no weight"));
        weights.get(name).copied().ok_or_else(lacking)
    };
    experts.iter().map(weight).collect()
}

/// Refuses what cannot be merged factor by factor.
fn alike(experts: &[&Expert]) -> Result<()> {
    let Some((first, rest)) = experts.split_first() else {
        return Ok(());
    };
    let part = |l: &Lora| (l.rank(), l.d_in(), l.d_out(), l.scale);
    let parts = |e: &Expert| {
        e.loras
            .iter()
            .map(|(s, l)| (s.clone(), part(l)))
            .collect::<Vec<_>>()
    };
    let own = parts(first);
    match rest.iter().find(|e| parts(e) != own) {
        None => Ok(()),
        Some(other) => Err(Error::Mismatch(format!(
            "experts `{}` and `{}` differ in layers, ranks or scales, and A's and B's of different \
             kinds have no mean; merge them with `cat`, which is exact",
            first.card.name, other.card.name
        ))),
    }
}

/// The merged factors of a merge that treats every factor on its own.
fn by_factor(experts: &[&Expert], spec: &MergeSpec) -> Result<BTreeMap<Site, Lora>> {
    let values = |t: &Tensor| Ok(t.flatten_all()?.to_vec1::<f32>()?);
    let trims = match spec {
        MergeSpec::Ties { density } => ties::trims(experts, *density)?,
        _ => Vec::new(),
    };
    let shares = match spec {
        MergeSpec::Linear { weights } => shares(experts, weights.as_ref())?,
        _ => Vec::new(),
    };
    let factor = |site: &Site, part: fn(&Lora) -> &Tensor| -> Result<Tensor> {
        let all: Vec<Vec<f32>> = experts
            .iter()
            .map(|e| values(part(&e.loras[site])))
            .collect::<Result<_>>()?;
        let shape = part(&experts[0].loras[site]).dims2()?;
        let merged = match spec {
            MergeSpec::Linear { .. } | MergeSpec::Cat { .. } => linear::merge(&all, &shares),
            MergeSpec::Ties { .. } => ties::merge(&all, &trims),
            MergeSpec::Wudi { steps, lr } => wudi::merge(&all, shape, *steps, *lr),
        };
        Ok(Tensor::from_vec(merged, shape, &Device::Cpu)?)
    };
    let sites: Vec<(&Site, f64)> = experts[0].loras.iter().map(|(s, l)| (s, l.scale)).collect();
    let lora = |(site, scale): &(&Site, f64)| {
        let (a, b) = (factor(site, |l| &l.a)?, factor(site, |l| &l.b)?);
        let lora = Lora::new(a, b, *scale).context(|| format!("merging at {site}"))?;
        Ok(((*site).clone(), lora))
    };
    // Each site on its own, so the result does not depend on the threads.
    sites.par_iter().map(lora).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_merge_has_its_row() {
        for about in MERGES {
            let spec = MergeSpec::new(about.name, Knobs::default()).unwrap();
            assert_eq!(spec.about().name, about.name);
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(json["merge"], about.name);
            assert_eq!(serde_json::from_value::<MergeSpec>(json).unwrap(), spec);
        }
        let knobs = |density| Knobs {
            density: Some(density),
            ..Knobs::default()
        };
        let error = MergeSpec::new("tise", Knobs::default()).unwrap_err();
        assert!(error.to_string().contains("did you mean ties"), "{error}");
        let error = MergeSpec::new("cat", knobs(0.2)).unwrap_err();
        assert!(
            error.to_string().contains("no setting `density`"),
            "{error}"
        );
        for bad in [0.0, 1.5, f64::NAN] {
            assert!(MergeSpec::new("ties", knobs(bad)).is_err());
        }
    }
}
