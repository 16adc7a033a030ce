//! Adapters made by PEFT, taken whole or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Tensor;

use super::config::Config;
use super::copies::{self, BaseTensors};
use super::keys::{Half, Key, key};
use super::naming::Naming;
use super::{CARD, CONFIG, OLD_WEIGHTS, WEIGHTS, folders, from_bytes};
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert, TargetBase};
use crate::lora::{Lora, LoraConfig, RankAlpha, ends_in};
use crate::name::{Name, Site};

/// The base an adapter is checked against.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// Its layers; nothing is checked when absent.
    pub host: Option<&'a TargetBase>,
    /// Its own tensors, which tell whether a tensor saved along is one of them.
    pub tensors: Option<&'a dyn BaseTensors>,
}

impl std::fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Beside");
        debug.field("host", &self.host).finish_non_exhaustive()
    }
}

/// An adapter that was taken.
#[derive(Debug)]
pub struct Imported {
    /// The expert.
    pub expert: Expert,
    /// A word each on things left out, or understood in a way of ours.
    pub notes: Vec<String>,
}

/// Reads the PEFT adapter in the folder `dir` as an expert called `name`.
///
/// With `base`, every layer the configuration targets must be in the file with the base's widths,
/// and nothing else; the expert is bound to that base. Without it only the file is checked against
/// the configuration, and a router takes the expert on any base that all its layers fit.
///
/// ```no_run
/// use std::path::Path;
/// use lyceum::prelude::*;
///
/// let base = lyceum::assets::base(Precision::F32)?;
/// let name = Name::new("sums")?;
/// let expert = lyceum::peft::import(Path::new("adapter"), &name, Some(&base.host()))?;
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] naming the field of the configuration that cannot be honoured (DoRA,
/// biases, initialisations that change the base, ...); [`Error::Mismatch`] when configuration,
/// weights and base do not fit each other exactly.
pub fn import(dir: &Path, name: &Name, base: Option<&TargetBase>) -> Result<Expert> {
    let beside = Beside {
        host: base,
        tensors: None,
    };
    import_beside(dir, name, beside).map(|imported| imported.expert)
}

/// Variant of [`import`] that reads the base's tensors too: copies of the base that PEFT saved
/// along (`modules_to_save`, embedding and head) are left out where they equal the base's own.
///
/// # Errors
/// As [`import`].
pub fn import_beside(dir: &Path, name: &Name, base: Beside<'_>) -> Result<Imported> {
    read(dir, name, base).context(|| format!("importing the PEFT adapter {}", dir.display()))
}

fn read(dir: &Path, name: &Name, base: Beside<'_>) -> Result<Imported> {
    let path = dir.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let config = Config::read(&bytes).context(|| CONFIG.to_owned())?;
    let (file, tensors) = weights(dir)?;
    let (factors, copies) = parts(tensors).context(|| file.to_owned())?;
    let naming = match base.host {
        Some(host) => {
            let paths: Vec<&str> = factors.keys().map(String::as_str).collect();
            Naming::find(&paths, &host.sites)
        }
        None => Naming::default(),
    };
    let mut notes: Vec<String> = naming.note().into_iter().collect();
    notes.extend(left_out(&config, &copies, &naming, base).context(|| file.to_owned())?);
    let others = folders::inside(dir)?;
    if !others.is_empty() {
        let others = others
            .iter()
            .filter_map(|found| found.dir.file_name()?.to_str());
        notes.push(format!(
            "folders in it hold adapters too, which are left out: {}",
            others.collect::<Vec<_>>().join(", ")
        ));
    }
    let factors = Layers { factors, naming };
    match base.host {
        Some(host) => factors.fit_base(&config, host)?,
        None => factors.fit_config(&config)?,
    }
    let expert = expert(factors, &config, name, base.host)?;
    let expert = sealed(expert, dir, &mut notes)?;
    Ok(Imported { expert, notes })
}

/// Everything together, under a card of its own.
fn expert(
    layers: Layers,
    config: &Config,
    name: &Name,
    host: Option<&TargetBase>,
) -> Result<Expert> {
    let Layers { factors, naming } = layers;
    let mut parts = BTreeMap::new();
    let mut loras = BTreeMap::new();
    for (path, (a, b)) in factors {
        let (rank, alpha) = config.part(&path)?;
        let scale = crate::lora::scale(rank, alpha, config.rslora);
        let site = Site::new(naming.base(&path).unwrap_or(path));
        let lora = Lora::new(a, b, scale).context(|| site.to_string())?;
        if lora.rank() != rank {
            return Err(Error::Mismatch(format!(
                "`{site}` has rank {}, {CONFIG} says {rank}",
                lora.rank()
            )));
        }
        let shape = (lora.d_out(), lora.d_in());
        match host.and_then(|host| host.sites.get(&site)) {
            Some(there) if *there != shape => {
                return Err(Error::Mismatch(format!(
                    "the adapter of `{site}` is for (d_out, d_in) = {shape:?}, the base has {there:?}"
                )));
            }
            _ => {}
        }
        parts.insert(site.clone(), RankAlpha { rank, alpha });
        loras.insert(site, lora);
    }
    let adapted = |names: &[String]| {
        let fits = |site: &Site| names.iter().any(|name| ends_in(site.as_str(), name));
        loras.keys().all(fits)
    };
    let targets = match config.plain_targets() {
        Some(names) if adapted(names) => names.to_vec(),
        _ => loras.keys().map(ToString::to_string).collect(),
    };
    let said = config.base_name.clone();
    let base_name = host.map(|host| host.name.clone()).or_else(|| said.clone());
    let card = Card {
        name: name.clone(),
        base: host.map(|host| host.fingerprint.clone()),
        base_family: host.map(|host| host.family_fingerprint.clone()),
        base_name: base_name.unwrap_or_default(),
        tasks: vec![name.clone()],
        lora: LoraConfig::of(&parts, config.rslora, targets)?,
        origin: serde_json::json!({ "import": "peft", "base_model_name_or_path": said }),
        losses: Vec::new(),
        weights: String::new(),
    };
    Expert::new(card, loras)
}

/// The expert with what our own card beside it says, if it was written for these weights: tasks,
/// origin (a merge stays one), losses, and the base it was trained on.
fn sealed(mut expert: Expert, dir: &Path, notes: &mut Vec<String>) -> Result<Expert> {
    let Ok(bytes) = std::fs::read(dir.join(CARD)) else {
        return Ok(expert);
    };
    let card = serde_json::from_slice::<Card>(&bytes).ok();
    match card.filter(|card| card.weights == expert.card.weights) {
        Some(card) => {
            expert.card.tasks = card.tasks;
            expert.card.origin = card.origin;
            expert.card.losses = card.losses;
            if card.base.is_some() {
                expert.card.base = card.base;
                expert.card.base_family = card.base_family;
                expert.card.base_name = card.base_name;
            }
        }
        None => notes.push(format!(
            "its {CARD} is not a card for these weights: not used"
        )),
    }
    Ok(expert)
}

/// The adapter's tensors and the file they are in: safetensors, or the torch pickle older adapters
/// have.
fn weights(dir: &Path) -> Result<(&'static str, BTreeMap<String, Tensor>)> {
    let read = |file: &str| {
        let path = dir.join(file);
        std::fs::read(&path).map_err(|e| Error::io(&path, e))
    };
    match read(WEIGHTS) {
        Ok(bytes) => Ok((
            WEIGHTS,
            from_bytes(&bytes).context(|| WEIGHTS.to_owned())?.0,
        )),
        Err(Error::NotFound { .. }) if dir.join(OLD_WEIGHTS).exists() => {
            let bytes = read(OLD_WEIGHTS)?;
            match crate::file::stand_in(&bytes) {
                Some(why) => Err(Error::format(OLD_WEIGHTS, why)),
                None => Ok((OLD_WEIGHTS, crate::torch::tensors(&bytes, OLD_WEIGHTS)?)),
            }
        }
        Err(error) => Err(error),
    }
}

type Factors = BTreeMap<String, (Tensor, Tensor)>;

/// A whole tensor saved along: what the file calls it, what the base does, and its values.
struct Copy {
    said: String,
    name: String,
    tensor: Tensor,
}

/// Pairs A's and B's by their paths, and the tensors that are no factors.
fn parts(tensors: BTreeMap<String, Tensor>) -> Result<(Factors, Vec<Copy>)> {
    let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    let mut adapters = BTreeSet::new();
    let mut copies = Vec::new();
    for (said, tensor) in tensors {
        if tensor.elem_count() == 0 {
            return Err(Error::Mismatch(format!(
                "tensor `{said}` is empty ({:?}): DeepSpeed ZeRO-3 had its values elsewhere when \
                 this was saved; save it again with stage3_gather_16bit_weights_on_model_save, or \
                 convert the checkpoint with zero_to_fp32.py",
                tensor.dims()
            )));
        }
        match key(&said)? {
            Key::Copy { tensor: name } => copies.push(Copy { said, name, tensor }),
            Key::Factor {
                path,
                half,
                adapter,
            } => {
                let at = usize::from(half == Half::B);
                let place = &mut halves.entry(path).or_default()[at];
                if place.replace(tensor).is_some() {
                    return Err(Error::Mismatch(format!(
                        "tensor `{said}` is there twice, under two names"
                    )));
                }
                adapters.insert(adapter.unwrap_or_else(|| "one without a name".into()));
            }
        }
    }
    if halves.is_empty() {
        return Err(Error::Mismatch("it holds no adapter".into()));
    }
    if adapters.len() > 1 {
        let names: Vec<String> = adapters.into_iter().collect();
        return Err(Error::Mismatch(format!(
            "it holds several adapters ({}): save each on its own (save_pretrained with \
             selected_adapters)",
            names.join(", ")
        )));
    }
    let pair = |(path, halves): (String, [Option<Tensor>; 2])| match halves {
        [Some(a), Some(b)] => Ok((path, (a, b))),
        [None, _] => Err(Error::Mismatch(format!(
            "`{path}` has a lora_B but no lora_A"
        ))),
        [_, None] => Err(Error::Mismatch(format!(
            "`{path}` has a lora_A but no lora_B"
        ))),
    };
    let factors = halves.into_iter().map(pair).collect::<Result<_>>()?;
    Ok((factors, copies))
}

/// Checks what was saved along, and says that it is left out.
fn left_out(
    config: &Config,
    copies: &[Copy],
    naming: &Naming,
    base: Beside<'_>,
) -> Result<Vec<String>> {
    for copy in copies {
        let name = naming.base(&copy.name);
        let name = name.as_deref().unwrap_or(&copy.name);
        copies::check(&copy.said, name, &copy.tensor, base.tensors)?;
    }
    let first: Vec<String> = { copies.iter().take(3) }
        .map(|copy| format!("`{}`", copy.said))
        .collect();
    let more = match copies.len().saturating_sub(3) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let note = format!(
        "saved along, and the base's own: left out {}{more}",
        first.join(", ")
    );
    let notes = if copies.is_empty() {
        Vec::new()
    } else {
        vec![note]
    };
    let there = |module: &String| {
        let of = |copy: &Copy| {
            copy.name
                .rsplit_once('.')
                .is_some_and(|(m, _)| ends_in(m, module))
        };
        copies.iter().any(of)
    };
    match config.saved.iter().find(|module| !there(module)) {
        None => Ok(notes),
        Some(module) => Err(Error::Mismatch(format!(
            "{CONFIG} names `{module}` in `modules_to_save`, and the file holds none: what was \
             trained there is lost, and the adapter was trained with it"
        ))),
    }
}

/// The factors by what the adapter calls their layers.
struct Layers {
    factors: Factors,
    naming: Naming,
}

impl Layers {
    /// Weights and configuration name the same layers of the base, no more and no fewer.
    fn fit_base(&self, config: &Config, host: &TargetBase) -> Result<()> {
        let site = |path: &String| self.naming.base(path).map(Site::new);
        let known = |path: &String| site(path).is_some_and(|site| host.sites.contains_key(&site));
        if let Some(path) = self.factors.keys().find(|path| !known(path)) {
            let names = host.sites.keys().map(Site::as_str);
            return Err(Error::not_found("layer of the base", path, names));
        }
        self.fit_config(config)?;
        let mut lacking = Vec::new();
        for site in host.sites.keys() {
            let path = self.naming.adapter(site);
            if config.adapts(&path)? && !self.factors.contains_key(&path) {
                lacking.push(path);
            }
        }
        match lacking.first() {
            None => Ok(()),
            Some(first) => Err(Error::Mismatch(format!(
                "{CONFIG} targets {} layers of the base, {WEIGHTS} has {}: `{first}` is missing",
                lacking.len() + self.factors.len(),
                self.factors.len()
            ))),
        }
    }

    /// Every layer in the weights is targeted, and every name in a list of targets has a layer.
    fn fit_config(&self, config: &Config) -> Result<()> {
        for path in self.factors.keys() {
            if !config.adapts(path)? {
                return Err(Error::Mismatch(format!(
                    "{WEIGHTS} adapts `{path}`, which {CONFIG} does not target"
                )));
            }
        }
        // Under exclusions or for some layers only, a name may well have none.
        let names = config.plain_targets().unwrap_or_default();
        let unused = |name: &&String| !self.factors.keys().any(|path| ends_in(path, name));
        match names.iter().find(unused) {
            None => Ok(()),
            Some(name) => Err(Error::Mismatch(format!(
                "{CONFIG} targets `{name}`, for which {WEIGHTS} holds nothing"
            ))),
        }
    }
}
