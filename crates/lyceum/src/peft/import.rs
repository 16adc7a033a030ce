//! Adapters made by PEFT, taken whole or refused.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::config::Config;
use super::{CONFIG, PREFIX, WEIGHTS, from_bytes};
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert, Host};
use crate::lora::{Lora, LoraConfig, ends_in};
use crate::name::{Name, Site};

/// PEFT's older weights file, a torch pickle.
const OLD_WEIGHTS: &str = "adapter_model.bin";

/// Reads the PEFT adapter in the folder `dir` as an expert called `name`.
///
/// With `base`, every layer the configuration targets must be in the file with the base's widths,
/// and nothing else; the expert is bound to that base. Without it only the file is checked against
/// the configuration, and no router will take the expert until it is imported with its base.
///
/// # Errors
/// [`Error::Invalid`] naming the field of the configuration that cannot be honoured (DoRA,
/// biases, initialisations that change the base, ...); [`Error::Mismatch`] when configuration,
/// weights and base do not fit each other exactly.
pub fn import(dir: &Path, name: &Name, base: Option<&Host>) -> Result<Expert> {
    read(dir, name, base).context(|| format!("importing the PEFT adapter {}", dir.display()))
}

fn read(dir: &Path, name: &Name, base: Option<&Host>) -> Result<Expert> {
    let path = dir.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let config = Config::read(&bytes).context(|| CONFIG.to_owned())?;
    let factors = factors(weights(dir)?)?;
    match base {
        Some(host) => fits_base(&config, &factors, host)?,
        None => fits_config(&config, &factors)?,
    }
    let mut parts = BTreeMap::new();
    let mut loras = BTreeMap::new();
    for (site, (a, b)) in factors {
        let (rank, alpha) = config.part(site.as_str())?;
        let scale = crate::lora::scale(rank, alpha, config.rslora);
        let lora = Lora::new(a, b, scale).context(|| site.to_string())?;
        if lora.rank() != rank {
            return Err(Error::Mismatch(format!(
                "`{site}` has rank {}, {CONFIG} says {rank}",
                lora.rank()
            )));
        }
        if let Some(&shape) = base.and_then(|host| host.sites.get(&site))
            && shape != (lora.d_out(), lora.d_in())
        {
            return Err(Error::Mismatch(format!(
                "the adapter of `{site}` is for (d_out, d_in) = {:?}, the base has {shape:?}",
                (lora.d_out(), lora.d_in())
            )));
        }
        parts.insert(site.clone(), (rank, alpha));
        loras.insert(site, lora);
    }
    let targets = match config.plain_targets() {
        Some(names) => names.to_vec(),
        None => loras.keys().map(ToString::to_string).collect(),
    };
    let said = config.base_name.clone();
    let base_name = base.map(|host| host.name.clone()).or_else(|| said.clone());
    let card = Card {
        name: name.clone(),
        base: base.map(|host| host.fingerprint.clone()),
        base_family: base.map(|host| host.family_fingerprint.clone()),
        base_name: base_name.unwrap_or_default(),
        tasks: vec![name.clone()],
        lora: LoraConfig::of(&parts, config.rslora, targets)?,
        origin: serde_json::json!({ "import": "peft", "base_model_name_or_path": said }),
        losses: Vec::new(),
        weights: String::new(),
    };
    Expert::new(card, loras)
}

/// The adapter's tensors: safetensors, or the torch pickle older adapters have.
fn weights(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    let read = |file: &str| {
        let path = dir.join(file);
        std::fs::read(&path).map_err(|e| Error::io(&path, e))
    };
    match read(WEIGHTS) {
        Ok(bytes) => Ok(from_bytes(&bytes).context(|| WEIGHTS.to_owned())?.0),
        Err(Error::NotFound { .. }) if dir.join(OLD_WEIGHTS).exists() => {
            crate::torch::tensors(&read(OLD_WEIGHTS)?, OLD_WEIGHTS)
        }
        Err(error) => Err(error),
    }
}

type Factors = BTreeMap<Site, (Tensor, Tensor)>;

/// Pairs A's and B's; names may carry PEFT's adapter name `default`.
fn factors(tensors: BTreeMap<String, Tensor>) -> Result<Factors> {
    let mut halves: BTreeMap<Site, [Option<Tensor>; 2]> = BTreeMap::new();
    for (name, tensor) in tensors {
        let path = name.strip_prefix(PREFIX).unwrap_or(&name);
        let path = path.strip_suffix(".weight").unwrap_or(path);
        let path = path.strip_suffix(".default").unwrap_or(path);
        let half = ["lora_A", "lora_B"]
            .iter()
            .position(|half| path.ends_with(half));
        let site = half.and_then(|half| Some((half, path[..path.len() - 6].strip_suffix('.')?)));
        let Some((half, site)) = site.filter(|_| name.ends_with(".weight")) else {
            return Err(Error::Mismatch(format!("tensor `{name}` {}", why(&name))));
        };
        let place = &mut halves.entry(Site::new(site)).or_default()[half];
        if place.replace(tensor).is_some() {
            return Err(Error::Mismatch(format!(
                "`{name}` is there twice, with and without `.default`"
            )));
        }
    }
    if halves.is_empty() {
        return Err(Error::Mismatch(format!("{WEIGHTS} holds no adapter")));
    }
    let pair = |(site, halves): (Site, [Option<Tensor>; 2])| match halves {
        [Some(a), Some(b)] => Ok((site, (a, b))),
        [None, _] => Err(Error::Mismatch(format!(
            "`{site}` has a lora_B but no lora_A"
        ))),
        [_, None] => Err(Error::Mismatch(format!(
            "`{site}` has a lora_A but no lora_B"
        ))),
    };
    halves.into_iter().map(pair).collect()
}

/// Why a tensor that is no factor of a linear's adapter cannot be taken.
fn why(name: &str) -> &'static str {
    match name {
        n if n.contains("lora_magnitude_vector") => "is a DoRA magnitude, which cannot be imported",
        n if n.contains("lora_embedding_") => "adapts an embedding, which cannot be imported",
        n if n.contains("modules_to_save") => {
            "replaces a module of the base, which cannot be imported"
        }
        n if n.ends_with(".bias") => "is a bias, which cannot be imported",
        _ => "is no factor of an adapter of a linear layer",
    }
}

/// Weights and configuration name the same layers of the base, no more and no fewer.
fn fits_base(config: &Config, factors: &Factors, host: &Host) -> Result<()> {
    if let Some(site) = factors.keys().find(|site| !host.sites.contains_key(*site)) {
        let names = host.sites.keys().map(Site::as_str);
        return Err(Error::not_found("layer of the base", site.as_str(), names));
    }
    fits_config(config, factors)?;
    let mut lacking = Vec::new();
    for site in host.sites.keys() {
        if config.adapts(site.as_str())? && !factors.contains_key(site) {
            lacking.push(site.as_str());
        }
    }
    match lacking.first() {
        None => Ok(()),
        Some(first) => Err(Error::Mismatch(format!(
            "{CONFIG} targets {} layers of the base, {WEIGHTS} holds {}: `{first}` is lacking",
            lacking.len() + factors.len(),
            factors.len()
        ))),
    }
}

/// Every layer in the weights is targeted, and every name in a list of targets has a layer.
fn fits_config(config: &Config, factors: &Factors) -> Result<()> {
    for site in factors.keys() {
        if !config.adapts(site.as_str())? {
            return Err(Error::Mismatch(format!(
                "{WEIGHTS} adapts `{site}`, which {CONFIG} does not target"
            )));
        }
    }
    // Under exclusions or for some layers only, a name may well have none.
    let names = config.plain_targets().unwrap_or_default();
    let unused = |name: &&String| !factors.keys().any(|site| ends_in(site.as_str(), name));
    match names.iter().find(unused) {
        None => Ok(()),
        Some(name) => Err(Error::Mismatch(format!(
            "{CONFIG} targets `{name}`, for which {WEIGHTS} holds nothing"
        ))),
    }
}
