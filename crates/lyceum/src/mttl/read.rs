//! Reading a folder of MTTL experts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::{derived, meta};
use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::{Lora, LoraConfig};
use crate::name::{Name, Site};
use crate::torch;

/// The contents of a folder of MTTL experts.
#[derive(Debug, Default)]
pub struct Library {
    /// The experts, in the order of their names.
    pub experts: Vec<Expert>,
    /// Those MTTL marks as deleted.
    pub removed: Vec<Expert>,
    /// Vectors derived from the experts.
    pub artifacts: Vec<Artifact>,
    /// Notes about files that were skipped, with the reason.
    pub notes: Vec<String>,
    /// Experts that could not be taken, where others could.
    pub refused: Vec<Refused>,
}

/// An expert that could not be taken.
#[derive(Debug)]
pub struct Refused {
    /// Its folder, or what it is.
    pub what: String,
    /// Why not.
    pub why: Error,
    /// True where another name is all it lacks.
    pub nameable: bool,
}

/// Returns `true` if `dir` is a folder of MTTL experts: it contains a `.meta` file.
pub fn is_library(dir: &Path) -> bool {
    files(dir).is_ok_and(|files| files.iter().any(|(_, name)| name.ends_with(".meta")))
}

/// The plain files of `dir` with their names, sorted.
fn files(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let io = |e| Error::io(dir, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| !name.starts_with('.') && path.is_file()) {
            files.push((path.clone(), name.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the library in `dir`.
///
/// ```no_run
/// use std::path::Path;
///
/// for expert in lyceum::mttl::read(Path::new("mttl-library"))?.experts {
///     println!("{}: rank {}", expert.card.name, expert.card.lora.rank);
/// }
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When any expert or any of its data cannot be read, naming it: never a shorter library.
pub fn read(dir: &Path) -> Result<Library> {
    let (found, errors) = scan(dir)?;
    match errors.into_iter().next() {
        None => Ok(found),
        Some(error) => Err(error),
    }
}

/// Reads the library in `dir` as far as possible, and collects an error for everything unreadable.
///
/// # Errors
/// When the folder cannot be listed or holds no expert.
pub fn scan(dir: &Path) -> Result<(Library, Vec<Error>)> {
    let mut found = Library::default();
    let mut errors = Vec::new();
    let files = files(dir)?;
    for (path, file) in &files {
        let Some(name) = file.strip_suffix(".meta") else {
            continue;
        };
        let context = || format!("MTTL expert `{name}` of {}", dir.display());
        match expert(path, name).context(context) {
            Ok((expert, true)) => found.removed.push(expert),
            Ok((expert, false)) => found.experts.push(expert),
            Err(error) => errors.push(error),
        }
    }
    if found.experts.is_empty() && found.removed.is_empty() && errors.is_empty() {
        let text = format!("{} holds no MTTL expert (no `.meta` file)", dir.display());
        return Err(Error::invalid(text));
    }
    let mut data: BTreeMap<Name, Vec<(String, PathBuf)>> = BTreeMap::new();
    for (path, file) in files {
        let parts: Vec<&str> = file.split('.').collect();
        match parts[..] {
            [expert, kind, "bin"] => match Name::new(expert) {
                Ok(name) => data.entry(name).or_default().push((kind.to_owned(), path)),
                Err(_) => found
                    .notes
                    .push(format!("{file}: not of an expert, left out")),
            },
            [_, "meta"] => {}
            [stem, "ckpt"] if found.knows(stem) => {}
            ["README", "md"] => {}
            _ => found
                .notes
                .push(format!("{file}: not part of a library, left out")),
        }
    }
    for (name, data) in data {
        let Some(expert) = found.experts.iter().find(|e| e.card.name == name) else {
            found.notes.push(format!(
                "data of `{name}`, which is not an expert here, left out"
            ));
            continue;
        };
        let context = || format!("data of MTTL expert `{name}` of {}", dir.display());
        match derived::read(expert, &data).context(context) {
            Ok((artifacts, notes)) => {
                found.artifacts.extend(artifacts);
                found.notes.extend(notes);
            }
            Err(error) => errors.push(error),
        }
    }
    Ok((found, errors))
}

impl Library {
    /// Leaves out the artifacts of experts that are not here.
    pub(crate) fn keep_artifacts(&mut self) {
        let experts = &self.experts;
        let here = |name: &Name| experts.iter().any(|expert| expert.card.name == *name);
        self.artifacts.retain(|artifact| here(&artifact.expert));
    }

    fn knows(&self, stem: &str) -> bool {
        let all = self.experts.iter().chain(&self.removed);
        all.into_iter()
            .any(|expert| expert.card.name.as_str() == stem)
    }
}

/// The expert of a `.meta` file and whether it was deleted.
fn expert(path: &Path, name: &str) -> Result<(Expert, bool)> {
    let name = Name::new(name)?;
    let get = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        match crate::file::stand_in(&bytes) {
            Some(why) => Err(Error::format(path.display(), why)),
            None => Ok(bytes),
        }
    };
    let bytes = get(path)?;
    let what = path.display().to_string();
    let meta = torch::load(&bytes, &what)?;
    let meta = meta::read(&meta, &name).map_err(|why| Error::format(&what, why))?;
    let path = path.with_extension("ckpt");
    let what = path.display().to_string();
    let bad = |why: String| Error::format(&what, why);
    let mut weights = torch::tensors(&get(&path)?, &what)?;
    if let Some(tied) = &meta.tie_params {
        untie(&mut weights, tied).map_err(bad)?;
    }
    let scale = meta.alpha / meta.rank as f64;
    let loras = loras(weights, meta.rank, scale, &what)?;
    let targets: std::collections::BTreeSet<&str> = loras
        .keys()
        .filter_map(|site| site.as_str().rsplit('.').next())
        .collect();
    let lora = LoraConfig {
        rank: meta.rank,
        alpha: meta.alpha,
        rslora: false,
        targets: targets.into_iter().map(ToOwned::to_owned).collect(),
        ..LoraConfig::default()
    };
    lora.check()?;
    let card = Card {
        name,
        base: None,
        base_family: None,
        base_name: meta.model,
        tasks: meta.tasks,
        lora,
        origin: meta.origin,
        losses: Vec::new(),
        weights: String::new(),
    };
    Ok((Expert::new(card, loras)?, meta.deleted))
}

fn loras(
    mut weights: BTreeMap<String, Tensor>,
    rank: usize,
    scale: f64,
    what: &str,
) -> Result<BTreeMap<Site, Lora>> {
    let bad = |why: String| Error::format(what, why);
    let mut loras = BTreeMap::new();
    while let Some((key, first)) = weights.pop_first() {
        let Some(path) = key.strip_suffix(".lora_a") else {
            return Err(bad(format!(
                "`{key}` is not a `lora_a`, or lacks its `lora_b`"
            )));
        };
        let other = weights.remove(&format!("{path}.lora_b"));
        let other = other.ok_or_else(|| bad(format!("`{path}` has a lora_a but no lora_b")))?;
        let plain = |t: &Tensor| (t.rank() == 2).then(|| t.t()?.contiguous());
        let (Some(a), Some(b)) = (plain(&first), plain(&other)) else {
            return Err(bad(format!(
                "`{path}` is not plain LoRA (its factors are not matrices)"
            )));
        };
        let lora = Lora::new(a?, b?, scale).map_err(|e| bad(format!("`{path}`: {e}")))?;
        if lora.rank() != rank {
            let has = lora.rank();
            return Err(bad(format!(
                "`{path}` has rank {has}, its metadata says {rank}"
            )));
        }
        loras.insert(Site::new(path), lora);
    }
    match loras.is_empty() {
        true => Err(bad("it holds no adapter".into())),
        false => Ok(loras),
    }
}

/// Tied parameters are saved once, under the first of their names. As the reference does, the
/// pattern's alternatives are taken as the ends of the names that share a parameter.
fn untie(weights: &mut BTreeMap<String, Tensor>, pattern: &str) -> Result<(), String> {
    let plain = pattern.replace('\\', "").replace(".*", "");
    let ends: Vec<&str> = plain.split('|').collect();
    let usual = |c: char| c.is_alphanumeric() || "_.".contains(c);
    if ends
        .iter()
        .any(|end| end.is_empty() || !end.chars().all(usual))
    {
        return Err(format!("the parameters tied by `{pattern}` are ambiguous"));
    }
    let mut more = BTreeMap::new();
    for (key, tensor) in &*weights {
        let Some(end) = ends.iter().find(|end| key.ends_with(*end)) else {
            continue;
        };
        let parent = &key[..key.len() - end.len()];
        for other in ends.iter().filter(|other| *other != end) {
            let twin = format!("{parent}{other}");
            match weights.get(&twin) {
                None => {
                    more.insert(twin, tensor.clone());
                }
                Some(there) => {
                    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
                    let same = values(there).ok() == values(tensor).ok();
                    if !same || there.dims() != tensor.dims() {
                        return Err(format!("`{key}` and `{twin}` are tied but differ"));
                    }
                }
            }
        }
    }
    weights.extend(more);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tied_factors_are_written_out() {
        let tensor = |x: f32| Tensor::from_slice(&[x], (1, 1), &candle_core::Device::Cpu).unwrap();
        let mut weights = BTreeMap::from([("h.0.k_proj.lora_a".to_owned(), tensor(1.0))]);
        let pattern = "q_proj.*\\.lora_a|k_proj.*\\.lora_a";
        untie(&mut weights, pattern).unwrap();
        assert_eq!(weights.len(), 2);
        assert!(weights.contains_key("h.0.q_proj.lora_a"));
        weights.insert("h.0.q_proj.lora_a".into(), tensor(2.0));
        assert!(untie(&mut weights, pattern).unwrap_err().contains("differ"));
        assert!(untie(&mut weights, "(q|k)_proj").is_err());
    }
}
