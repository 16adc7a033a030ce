//! An expert: adapters for some sites of one base, and what is known about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::lora::{Lora, LoraConfig};
use crate::name::{Name, Site};

/// What is known about an expert besides its weights: `card.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name in the library.
    pub name: Name,
    /// Fingerprint of the base it was trained on; absent when it came without one (MTTL and PEFT
    /// record a name only).
    #[serde(default)]
    pub base: Option<String>,
    /// What that base is called.
    pub base_name: String,
    /// The tasks it stands for.
    pub tasks: Vec<Name>,
    /// Rank, scale, targets.
    pub lora: LoraConfig,
    /// How it was made: training settings, fingerprint of the data, version.
    pub origin: serde_json::Value,
    /// Its training loss, step by step.
    pub losses: Vec<f64>,
    /// Hex SHA-256 of the weights; what artifacts remember.
    pub weights: String,
}

impl Card {
    /// True for an expert that was merged from others, false for one that was trained or imported:
    /// a merge writes its method and its experts' fingerprints into `origin`.
    pub fn is_merge(&self) -> bool {
        self.origin.get("merge").is_some_and(|spec| !spec.is_null())
    }
}

/// A base as an expert sees it: what it is called and which linears it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// What it is called.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Every linear an expert can adapt, with (d_out, d_in).
    pub sites: BTreeMap<Site, (usize, usize)>,
}

/// A card and its weights.
#[derive(Debug, Clone)]
pub struct Expert {
    /// What is known.
    pub card: Card,
    /// The adapters, by site.
    pub loras: BTreeMap<Site, Lora>,
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

    /// Checks that it belongs on `base`: it was trained there if it knows, and every site it adapts
    /// is there with its widths.
    ///
    /// # Errors
    /// [`Error::Mismatch`] naming the first site that does not fit and how many do.
    pub fn check_base(&self, base: &Host) -> Result<()> {
        let (card, name) = (&self.card, &self.card.name);
        if let Some(own) = card.base.as_ref().filter(|own| **own != base.fingerprint) {
            return Err(Error::Mismatch(format!(
                "expert `{name}` was trained on another base ({}, fingerprint {own:.12}) than the \
                 one opened ({}, {:.12})",
                card.base_name, base.name, base.fingerprint
            )));
        }
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
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
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
