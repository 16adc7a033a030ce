//! Merges: many experts into one, from their weights alone.
//!
//! A merge's *specification* is the closed enum [`MergeSpec`] plus the table [`MERGES`]. `linear`
//! and `cat` are exact: the update they give is the weighted sum of the experts' updates, whatever
//! their ranks, scales and layers, so that one expert at weight w gives w times its own. The others
//! work on A and B each on its own, as MTTL does, so that their result is of the experts' own rank,
//! with cross terms; they need equal ranks, scales and layers.

mod cat;
mod factor_linear;
mod linear;
mod spec;
mod ties;
mod wudi;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use spec::MOST;
pub use spec::{About, Knobs, MERGES, MergeSpec, Weights};

use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::{Lora, LoraConfig, RankAlpha};
use crate::name::{Name, Site};

/// The error of a merge that was truncated to a rank, against the exact one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truncation {
    /// Frobenius norm of what was cut off, over all sites, as a share of that of the exact sum.
    pub relative_error: f64,
    /// The site that lost the largest share.
    pub worst_site: String,
    /// That share.
    pub worst_site_error: f64,
}

impl Truncation {
    /// Reads it from the card of a merged expert; `None` for an exact merge, or none.
    pub fn of(card: &Card) -> Option<Self> {
        serde_json::from_value(card.origin.get("truncation")?.clone()).ok()
    }
}

/// Merges `experts` into one called `name`; their order does not matter.
///
/// ```no_run
/// use lyceum::Name;
/// use lyceum::library::Library;
/// use lyceum::merge::{Knobs, MergeSpec, merge};
///
/// let library = Library::open("experts")?;
/// let ties = MergeSpec::new("ties", Knobs { density: Some(0.2), ..Knobs::default() })?;
/// let merged = merge(&library.experts()?, &ties, &Name::new("all")?)?;
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] when the experts are of different bases, or (but for `linear` and `cat`)
/// have different layers, ranks or scales; [`Error::Invalid`] when weights and experts do not have
/// the same names, or an expert is there twice.
pub fn merge(experts: &[Expert], spec: &MergeSpec, name: &Name) -> Result<Expert> {
    spec.check()?;
    let mut experts: Vec<&Expert> = experts.iter().collect();
    experts.sort_by(|a, b| a.card.name.cmp(&b.card.name));
    let first = *experts
        .first()
        .ok_or_else(|| Error::invalid("there is no expert to merge"))?;
    let twice = |pair: &&[&Expert]| pair[0].card.name == pair[1].card.name;
    if let Some(pair) = experts.windows(2).find(twice) {
        let name = &pair[0].card.name;
        return Err(Error::invalid(format!(
            "expert `{name}` is to be merged twice"
        )));
    }
    if let Some(other) = experts.iter().find(|e| e.card.base != first.card.base) {
        return Err(Error::Mismatch(format!(
            "experts `{}` and `{}` belong to different bases ({} and {})",
            first.card.name, other.card.name, first.card.base_name, other.card.base_name
        )));
    }
    let mut origin = json!({ "merge": spec });
    let (lora, loras) = match spec {
        MergeSpec::Linear { rank, .. } => {
            let (loras, truncation) = summed(&experts, spec, *rank)?;
            if rank.is_some() {
                origin["truncation"] = json!(truncation);
            }
            (described(&experts, &loras)?, loras)
        }
        MergeSpec::Cat { .. } => {
            let loras = by_site(&experts, spec, cat::merge)?;
            (described(&experts, &loras)?, loras)
        }
        _ => {
            alike(&experts)?;
            (first.card.lora.clone(), by_factor(&experts, spec)?)
        }
    };
    let from = experts.iter().map(|e| (&e.card.name, e.fingerprint()));
    origin["experts"] = json!(from.collect::<BTreeMap<_, _>>());
    origin["by"] = json!(concat!("lyceum ", env!("CARGO_PKG_VERSION")));
    let tasks: BTreeSet<Name> = experts.iter().flat_map(|e| e.card.tasks.clone()).collect();
    let card = Card {
        name: name.clone(),
        base: first.card.base.clone(),
        base_family: first.card.base_family.clone(),
        base_name: first.card.base_name.clone(),
        tasks: tasks.into_iter().collect(),
        lora,
        origin,
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

/// Applies `one` to the adapters that the experts have at a site, with their weights; each site on
/// its own, so that the result does not depend on the threads.
fn by_site<T: Send>(
    experts: &[&Expert],
    spec: &MergeSpec,
    one: impl Fn(&[(&Lora, f64)]) -> Result<T> + Sync,
) -> Result<BTreeMap<Site, T>> {
    let shares = shares(experts, spec.weights())?;
    let sites: BTreeSet<&Site> = experts.iter().flat_map(|e| e.loras.keys()).collect();
    let sites: Vec<&Site> = sites.into_iter().collect();
    let merged = |site: &&Site| {
        let pairs = experts.iter().zip(&shares);
        let terms = pairs.filter_map(|(e, share)| Some((e.loras.get(*site)?, *share)));
        let terms: Vec<(&Lora, f64)> = terms.collect();
        let merged = one(&terms).context(|| format!("merging at {site}"))?;
        Ok(((*site).clone(), merged))
    };
    sites.par_iter().map(merged).collect()
}

/// The exact sums, or what is left of them at a rank, and how far that is from the sums.
fn summed(
    experts: &[&Expert],
    spec: &MergeSpec,
    rank: Option<usize>,
) -> Result<(BTreeMap<Site, Lora>, Option<Truncation>)> {
    let sums = by_site(experts, spec, |terms| linear::sum(terms, rank))?;
    let share = |lost: f64, whole: f64| {
        if lost > 0.0 {
            (lost / whole).sqrt()
        } else {
            0.0
        }
    };
    let mut shares = sums
        .iter()
        .map(|(site, sum)| (site, share(sum.lost, sum.whole)));
    let first = shares.next();
    let worst = first.map(|first| shares.fold(first, |a, b| if b.1 > a.1 { b } else { a }));
    let lost = sums.values().map(|sum| sum.lost).sum();
    let whole = sums.values().map(|sum| sum.whole).sum();
    let truncation = worst.map(|(site, worst)| Truncation {
        relative_error: share(lost, whole),
        worst_site: site.to_string(),
        worst_site_error: worst,
    });
    let loras = sums.into_iter().map(|(site, sum)| (site, sum.lora));
    Ok((loras.collect(), truncation))
}

/// The configuration of adapters whose scales are all 1.
fn described(experts: &[&Expert], loras: &BTreeMap<Site, Lora>) -> Result<LoraConfig> {
    if let Some((site, lora)) = loras.iter().find(|(_, lora)| lora.rank() > MOST) {
        return Err(Error::invalid(format!(
            "the merged adapter of `{site}` has rank {}, more than {MOST}: merge fewer experts, or \
             with `linear` at a smaller rank",
            lora.rank()
        )));
    }
    let part = |(site, lora): (&Site, &Lora)| {
        let rank = lora.rank();
        let alpha = rank as f64;
        (site.clone(), RankAlpha { rank, alpha })
    };
    let parts = loras.iter().map(part).collect();
    let targets: BTreeSet<&String> = experts.iter().flat_map(|e| &e.card.lora.targets).collect();
    LoraConfig::of(&parts, false, targets.into_iter().cloned().collect())
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
             kinds have no mean; merge them with `linear` or `cat`, which are exact",
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
        MergeSpec::FactorLinear { weights } => shares(experts, weights.as_ref())?,
        _ => Vec::new(),
    };
    let factor = |site: &Site, part: fn(&Lora) -> &Tensor| -> Result<Tensor> {
        let all: Vec<Vec<f32>> = experts
            .iter()
            .map(|e| values(part(&e.loras[site])))
            .collect::<Result<_>>()?;
        let shape = part(&experts[0].loras[site]).dims2()?;
        let merged = match spec {
            MergeSpec::Ties { .. } => ties::merge(&all, &trims),
            MergeSpec::Wudi { steps, lr } => wudi::merge(&all, shape.0, shape.1, *steps, *lr),
            _ => factor_linear::merge(&all, &shares),
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
