//! An expert's folder is a PEFT adapter folder plus `card.json`: any PEFT tool can load it.
//!
//! [`import`] takes adapters that PEFT made. What it cannot honour it refuses by name; nothing of
//! a configuration is ever ignored that would change the result.

mod config;
mod copies;
mod fields;
mod folders;
mod import;
mod keys;
mod naming;
mod tensors;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::{Lora, ends_in};
use crate::name::Site;

pub use copies::BaseTensors;
pub use folders::{Found, find};
pub use import::{Beside, Imported, import, import_beside};
pub(crate) use tensors::{from_bytes, to_bytes};

/// PEFT's weights file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's older weights file, a torch pickle.
const OLD_WEIGHTS: &str = "adapter_model.bin";
/// PEFT's configuration file.
pub const CONFIG: &str = "adapter_config.json";
/// Our card; written last, so that an expert with a card is whole.
pub const CARD: &str = "card.json";
/// The files of an expert's folder, and no others.
pub(crate) const FILES: [&str; 3] = [WEIGHTS, CONFIG, CARD];

const PREFIX: &str = "base_model.model.";

/// The files of an expert's folder, in the order to write them.
///
/// ```no_run
/// use std::path::Path;
/// use lyceum::prelude::*;
///
/// let expert = Library::open("experts")?.expert(&Name::new("sums")?)?;
/// for (file, bytes) in lyceum::peft::encode(&expert)? {
///     lyceum::file::write(&Path::new("adapter").join(file), &bytes)?;
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When a tensor cannot be read.
pub fn encode(expert: &Expert) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut tensors = BTreeMap::new();
    for (site, lora) in &expert.loras {
        tensors.insert(format!("{PREFIX}{site}.lora_A.weight"), lora.a.clone());
        tensors.insert(format!("{PREFIX}{site}.lora_B.weight"), lora.b.clone());
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let config = adapter_config(expert);
    let json = |value: serde_json::Result<Vec<u8>>, file| {
        value.map_err(|e| Error::format(file, e)).map(|mut bytes| {
            bytes.push(b'\n');
            bytes
        })
    };
    Ok(vec![
        (WEIGHTS, to_bytes(&tensors, metadata)?),
        (CONFIG, json(serde_json::to_vec_pretty(&config), CONFIG)?),
        (CARD, json(serde_json::to_vec_pretty(&expert.card), CARD)?),
    ])
}

/// All that PEFT must know to load the expert as it is: `adapter_config.json`.
fn adapter_config(expert: &Expert) -> Value {
    let lora = &expert.card.lora;
    let sites: Vec<&Site> = expert.loras.keys().collect();
    let used = |target: &String| sites.iter().any(|site| ends_in(site.as_str(), target));
    // The card's targets where they say exactly which layers these are, else the layers.
    let exact = sites.iter().all(|site| lora.adapts(site)) && lora.targets.iter().all(used);
    let modules: Vec<&str> = match exact {
        true => lora.targets.iter().map(String::as_str).collect(),
        false => sites.iter().map(|site| site.as_str()).collect(),
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": expert.card.base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "rank_pattern": longest_first(&lora.rank_pattern),
        "alpha_pattern": longest_first(&lora.alpha_pattern),
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    })
}

/// A pattern in the order PEFT must try its keys: it takes the first that fits, we the longest.
fn longest_first<T: serde::Serialize>(pattern: &BTreeMap<String, T>) -> Value {
    let mut keys: Vec<(&String, &T)> = pattern.iter().collect();
    keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    keys.into_iter()
        .map(|(key, x)| (key.clone(), json!(x)))
        .collect()
}

/// Reads an expert from its files, checking the weights against the card.
///
/// # Errors
/// [`Error::Format`] naming the file that is not what it should be.
pub fn decode(what: &str, file: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Expert> {
    let card: Card = serde_json::from_slice(&file(CARD)?)
        .map_err(|e| Error::format(format!("{what}/{CARD}"), e))?;
    let bad = |why: String| Error::format(format!("{what}/{WEIGHTS}"), why);
    let mut factors = from_bytes(&file(WEIGHTS)?)
        .map_err(|e| bad(e.to_string()))?
        .0;
    let mut loras = BTreeMap::new();
    while let Some((name, first)) = factors.pop_first() {
        let path = name
            .strip_prefix(PREFIX)
            .and_then(|n| n.strip_suffix(".lora_A.weight"));
        let Some(path) = path else {
            return Err(bad(format!("unexpected tensor `{name}`")));
        };
        let b = factors
            .remove(&format!("{PREFIX}{path}.lora_B.weight"))
            .ok_or_else(|| bad(format!("`{path}` has a lora_A but no lora_B")))?;
        let site = Site::new(path);
        let lora = Lora::new(first, b, card.lora.scale_at(&site));
        loras.insert(site, lora.map_err(|e| bad(e.to_string()))?);
    }
    let sealed = card.weights.clone();
    let expert = Expert::new(card, loras).map_err(|e| bad(e.to_string()))?;
    if expert.card.weights != sealed {
        return Err(bad(
            "the weights are not those the card was written for".into()
        ));
    }
    Ok(expert)
}
