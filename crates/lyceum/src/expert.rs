//! An expert: adapters for some sites of one base, and what is known about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lora::{Lora, LoraConfig};
use crate::name::{Name, Site};

/// Metadata of an expert, stored beside its weights as `card.json`.
///
/// ```no_run
/// use lyceum::prelude::*;
///
/// let library = Library::open("experts")?;
/// let card = library.card(&Name::new("sums")?)?;
/// println!("{:?}, rank {}, last loss {:?}", card.tasks, card.lora.rank, card.losses.last());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name in the library.
    pub name: Name,
    /// Fingerprint of the base it was trained on; absent when it came without one (MTTL and PEFT
    /// record a name only).
    #[serde(default)]
    pub base: Option<String>,
    /// Fingerprint of that base's architecture, which a quantised and a full-precision base share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_family: Option<String>,
    /// The name of that base.
    pub base_name: String,
    /// The tasks it stands for.
    pub tasks: Vec<Name>,
    /// Rank, scale, targets.
    pub lora: LoraConfig,
    /// Provenance: training settings, fingerprint of the data, version.
    pub origin: serde_json::Value,
    /// Its training loss, step by step.
    pub losses: Vec<f64>,
    /// Hex SHA-256 of the weights; what artifacts remember.
    pub weights: String,
}

/// Which experts a base accepts. In both cases every site must be there with its widths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseMatch {
    /// Those trained over exactly its weights, and those that do not say.
    #[default]
    Exact,
    /// Those trained over any weights of its architecture too: QLoRA's way, where experts are
    /// trained over a quantised base and used over the full-precision one.
    Family,
}

/// A base as an expert sees it: what it is called and which linears it has.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetBase {
    /// The base's name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The fingerprint of its architecture, which other bytes of the same network share.
    pub family_fingerprint: String,
    /// Which experts it accepts.
    pub accepts: BaseMatch,
    /// Every linear an expert can adapt, with (d_out, d_in).
    pub sites: BTreeMap<Site, (usize, usize)>,
}

/// A card and its weights.
///
/// ```no_run
/// use lyceum::prelude::*;
///
/// let library = Library::open("experts")?;
/// let expert = library.expert(&Name::new("sums")?)?;
/// for (site, lora) in &expert.loras {
///     println!("{site}: rank {}, [{}, {}]", lora.rank(), lora.d_out(), lora.d_in());
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Expert {
    /// Its metadata.
    pub card: Card,
    /// The adapters, by site.
    pub loras: BTreeMap<Site, Lora>,
}

impl Card {
    /// True for an expert that was merged from others, false for one that was trained or imported:
    /// a merge writes its method and its experts' fingerprints into `origin`.
    pub fn is_merge(&self) -> bool {
        self.origin.get("merge").is_some_and(|spec| !spec.is_null())
    }

    /// Returns `true` if it was trained over other weights than those with this fingerprint.
    pub fn trained_elsewhere(&self, fingerprint: &str) -> bool {
        self.base.as_ref().is_some_and(|own| own != fingerprint)
    }

    fn check_base(&self, base: &TargetBase) -> Result<()> {
        let other = self.base.as_ref().filter(|own| **own != base.fingerprint);
        let Some(fingerprint) = other else {
            return Ok(());
        };
        let trained = format!("{}, fingerprint {fingerprint:.12}", self.base_name);
        let opened = format!("{}, {:.12}", base.name, base.fingerprint);
        let (expert, family) = (self.name.to_string(), &base.family_fingerprint);
        match (&self.base_family, base.accepts) {
            (Some(own), BaseMatch::Family) if own == family => Ok(()),
            (Some(own), BaseMatch::Exact) if own == family => {
                let base = format!("`{}` ({fingerprint:.12})", self.base_name);
                let made = format!("expert `{expert}` was trained over the base {base}");
                Err(Error::OtherBase { made, opened })
            }
            (Some(_), _) => Err(Error::Mismatch(format!(
                "expert `{expert}` was trained over a base of another architecture ({trained}) than \
                 the one opened ({opened})"
            ))),
            (None, _) => Err(Error::Mismatch(format!(
                "expert `{expert}` was trained on another base ({trained}) than the one opened \
                 ({opened}), and its card does not say of which architecture"
            ))),
        }
    }
}

impl Expert {
    /// Puts weights under a card, sealing it with their fingerprint.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the card's ranks or scales are not those of the weights.
    pub fn new(mut card: Card, loras: BTreeMap<Site, Lora>) -> Result<Self> {
        for (site, lora) in &loras {
            let said = (card.lora.rank_at(site), card.lora.scale_at(site));
            if said != (lora.rank(), lora.scale) {
                return Err(Error::Mismatch(format!(
                    "expert `{}` has rank {} and scale {} at `{site}`, its card says {} and {}",
                    card.name,
                    lora.rank(),
                    lora.scale,
                    said.0,
                    said.1
                )));
            }
        }
        card.weights = fingerprint(&loras)?;
        Ok(Expert { card, loras })
    }

    /// Notes `base` as the one it was trained over.
    pub fn record_base(&mut self, base: &TargetBase) {
        self.card.base = Some(base.fingerprint.clone());
        self.card.base_family = Some(base.family_fingerprint.clone());
    }

    /// Checks that it belongs on `base`: it was trained over its weights if it knows, or over
    /// others of its architecture where `base` accepts those, and every site it adapts is there
    /// with its widths.
    ///
    /// # Errors
    /// [`Error::OtherBase`] when only the weights differ and `base` does not accept that,
    /// [`Error::Mismatch`] naming the architectures, or the first site that does not fit and how
    /// many do.
    pub fn check_base(&self, base: &TargetBase) -> Result<()> {
        self.card.check_base(base)?;
        let name = &self.card.name;
        let shape = |lora: &Lora| (lora.d_out(), lora.d_in());
        let wrong = |(site, lora): &(&Site, &Lora)| base.sites.get(*site) != Some(&shape(lora));
        let bad: Vec<_> = self.loras.iter().filter(wrong).collect();
        let n = self.loras.len();
        let Some((site, lora)) = bad.first() else {
            return match n {
                0 => Err(Error::Mismatch(format!("expert `{name}` adapts nothing"))),
                _ => Ok(()),
            };
        };
        let has = match base.sites.get(*site) {
            None => "the base has no such layer".to_owned(),
            Some(there) => format!("the base's is {there:?}"),
        };
        Err(Error::Mismatch(format!(
            "expert `{name}` fits the base `{}` at {} of its {n} sites only: `{site}` is {:?} \
             (d_out, d_in), {has}",
            base.name,
            n - bad.len(),
            shape(lora)
        )))
    }

    /// Hex SHA-256 of the weights.
    pub fn fingerprint(&self) -> &str {
        &self.card.weights
    }
}

fn fingerprint(loras: &BTreeMap<Site, Lora>) -> Result<String> {
    let mut hash = Sha256::new();
    for (site, lora) in loras {
        let shape = [lora.rank(), lora.d_in(), lora.d_out()];
        hash.update(format!("{site} {shape:?} {:x};", lora.scale.to_bits()));
        for factor in [&lora.a, &lora.b] {
            for value in factor.flatten_all()?.to_vec1::<f32>()? {
                hash.update(value.to_le_bytes());
            }
        }
    }
    Ok(crate::digest::hex(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_is_told_by_its_origin() {
        let card = |origin| Card {
            name: Name::new("x").unwrap(),
            base: None,
            base_family: None,
            base_name: String::new(),
            tasks: Vec::new(),
            lora: LoraConfig::default(),
            origin,
            losses: Vec::new(),
            weights: String::new(),
        };
        assert!(card(json!({ "merge": { "merge": "cat" }, "experts": {} })).is_merge());
        for other in [
            json!(null),
            json!({ "merge": null }),
            json!({ "import": "peft" }),
            json!({ "seed": 1, "data": "merge" }),
            json!({ "mttl": { "metadata": { "merge": {} } } }),
        ] {
            assert!(!card(other).is_merge());
        }
    }
}
