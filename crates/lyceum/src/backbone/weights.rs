//! The tensors of a checkpoint: mapped files, read one tensor at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::map::Map;
use lyceum_kernels::quantised::{self, Format};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::config::Config;
use super::stored::{Bytes, Lay, Stored, bad};
use crate::error::{Context, Error, Result};
use crate::torch;

/// Files of weights and the index of their shards, the first that is there, and whether
/// `torch.save` wrote them.
const FORMS: [(&str, &str, bool); 2] = [
    ("model.safetensors", "model.safetensors.index.json", false),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", true),
];

/// The tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(super) struct Weights<'a>(BTreeMap<String, Stored<'a>>);

impl<'a> Weights<'a> {
    /// Tensors in f32 made elsewhere.
    pub(super) fn made(tensors: BTreeMap<String, Tensor>) -> Self {
        let stored = |(name, tensor): (String, Tensor)| (name, Stored::made(tensor));
        Weights(tensors.into_iter().map(stored).collect())
    }

    /// Tensors found elsewhere.
    pub(super) fn found(tensors: BTreeMap<String, Stored<'a>>) -> Self {
        Weights(tensors)
    }

    /// The tensors of one safetensors file in memory.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self> {
        let mut all = Weights::default();
        all.add(&Bytes::Slice(bytes))?;
        Ok(all)
    }

    /// The tensors of a folder: one file, the shards its index names, or older files of
    /// `torch.save`, one or several (read without running any of their code).
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let (files, saved) = files(dir)?;
        let mut all = Weights::default();
        for file in files {
            let path = dir.join(file);
            let map = Map::open(&path).map_err(|e| Error::io(&path, e))?;
            let bytes = Bytes::Map(Arc::new(map));
            let what = path.display().to_string();
            match saved {
                true => all.add_saved(&bytes, &what)?,
                false => all.add(&bytes).context(|| format!("reading {what}"))?,
            }
        }
        Ok(all)
    }

    fn add(&mut self, bytes: &Bytes<'a>) -> Result<()> {
        let all = bytes.get();
        let file = SafeTensors::deserialize(all).map_err(|e| Error::format("safetensors", e))?;
        for (name, view) in file.tensors() {
            let lay = match view.dtype() {
                Dtype::F32 => Lay::F32,
                Dtype::F16 => Lay::F16,
                Dtype::BF16 => Lay::Bf16,
                // Masks and counters that some checkpoints carry; not weights.
                _ => continue,
            };
            let place = (bytes.clone(), within(all, view.data()));
            let stored = Stored::new(place, view.shape().to_vec(), lay);
            self.put(&name, stored.map_err(|why| bad(&name, why))?)?;
        }
        Ok(())
    }

    /// The tensors of a file of `torch.save`: where they lie if they lie in order, else in f32.
    fn add_saved(&mut self, bytes: &Bytes<'a>, what: &str) -> Result<()> {
        let all = bytes.get();
        for (name, tensor) in torch::stored(all, what)? {
            let lay = match tensor.dtype() {
                torch::Dtype::F32 => Some(Lay::F32),
                torch::Dtype::F16 => Some(Lay::F16),
                torch::Dtype::Bf16 => Some(Lay::Bf16),
                torch::Dtype::F64 => None,
                // As in `add`.
                _ => continue,
            };
            let stored = match lay.zip(tensor.plain()) {
                Some((lay, raw)) => {
                    let place = (bytes.clone(), within(all, raw));
                    let stored = Stored::new(place, tensor.shape().to_vec(), lay);
                    stored.map_err(|why| bad(&name, why))?
                }
                None => {
                    let made = tensor.to_candle();
                    Stored::made(made.context(|| format!("reading `{name}` of {what}"))?)
                }
            };
            self.put(&name, stored)?;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, stored: Stored<'a>) -> Result<()> {
        match self.0.insert(name.to_owned(), stored) {
            None => Ok(()),
            Some(_) => Err(Error::format(name, "stands in two files")),
        }
    }

    /// Gives the tensors the names that `config` uses and leaves out what it has no use for.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or is one that `config` does not explain.
    pub(super) fn fit(&mut self, config: &Config) -> Result<()> {
        let root = format!("{}.", config.modules.root);
        let head = config.modules.head;
        if !self.0.keys().any(|name| name.starts_with(&root)) {
            // Saved without the head's wrapper, as the first GPT-2 was.
            let rename = |(name, stored): (String, _)| match name.starts_with(head) {
                true => (name, stored),
                false => (format!("{root}{name}"), stored),
            };
            self.0 = std::mem::take(&mut self.0)
                .into_iter()
                .map(rename)
                .collect();
        }
        let wanted: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        for (name, shape) in &wanted {
            let stored = self.0.get(name).ok_or_else(|| {
                Error::Mismatch(format!(
                    "the base's weights hold no tensor `{name}`, which its config needs"
                ))
            })?;
            if stored.shape != *shape {
                return Err(Error::Mismatch(format!(
                    "tensor `{name}` is {:?}, the base's config says {shape:?}",
                    stored.shape
                )));
            }
        }
        let idle = |name: &str| {
            let ends = [".attn.bias", ".attn.masked_bias", ".attention.bias"];
            let more = [".attention.masked_bias", ".rotary_emb.inv_freq"];
            let tied = config.head.tied && name == format!("{head}.weight");
            tied || ends.iter().chain(&more).any(|end| name.ends_with(end))
        };
        let strange = self.0.keys().find(|n| !wanted.contains_key(*n) && !idle(n));
        if let Some(name) = strange {
            return Err(Error::Mismatch(format!(
                "the base's weights hold a tensor `{name}` that its config does not explain"
            )));
        }
        self.0.retain(|name, _| wanted.contains_key(name));
        Ok(())
    }

    fn stored(&self, name: &str) -> Result<&Stored<'a>> {
        self.0
            .get(name)
            .ok_or_else(|| Error::Mismatch(format!("the base's weights hold no tensor `{name}`")))
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.stored(name)?.shape)
    }

    /// The values of a tensor in f32.
    ///
    /// # Errors
    /// When there is no such tensor or it holds a value that is not finite.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.stored(name)?;
        let mut all = Vec::with_capacity(stored.shape.iter().product());
        stored.each(|values| all.extend_from_slice(values))?;
        finite(name, &all)?;
        Ok(all)
    }

    /// The values of a matrix's rows from row `first` on, as many as `out` has room for.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub(super) fn rows(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        self.stored(name)?.rows(first, out)?;
        finite(name, out)
    }

    /// The quantised rows of a matrix, if it is quantised on disk.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub(super) fn blocks(&self, name: &str) -> Result<Option<(Format, quantised::Bytes)>> {
        let stored = self.stored(name)?;
        stored.blocks().map_err(|why| bad(name, why))
    }

    /// Hex SHA-256 over what the base computes and over its weights in f32.
    pub(super) fn fingerprint(&self, config: &Config) -> Result<String> {
        let mut hash = Sha256::new().chain_update(config.identity()?);
        for (name, stored) in &self.0 {
            hash.update(format!("{name}{:?}", stored.shape));
            stored.each(|values| hash.update(bytemuck::cast_slice::<f32, u8>(values)))?;
        }
        let bytes = hash.finalize();
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(bad(name, "holds values that are not finite")),
    }
}

/// The files of a folder's weights, and whether `torch.save` wrote them.
fn files(dir: &Path) -> Result<(Vec<String>, bool)> {
    for (single, index, saved) in FORMS {
        let index = dir.join(index);
        if dir.join(single).exists() {
            return Ok((vec![single.into()], saved));
        }
        if index.exists() {
            return Ok((shards(&index)?, saved));
        }
    }
    let names = FORMS.map(|(single, index, _)| format!("{single}, {index}"));
    Err(Error::invalid(format!(
        "{} holds no weights: none of {}",
        dir.display(),
        names.join(", ")
    )))
}

/// Where `part`, which lies in `all`, lies.
fn within(all: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - all.as_ptr().addr();
    start..start + part.len()
}

/// The files an index names, which must lie beside it.
fn shards(index: &Path) -> Result<Vec<String>> {
    let bytes = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let bad = |why: String| Error::format(index.display(), why);
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    let map = value.get("weight_map").and_then(|m| m.as_object());
    let map = map.ok_or_else(|| bad("no `weight_map`".into()))?;
    let mut files: Vec<String> = map
        .values()
        .filter_map(|v| Some(v.as_str()?.into()))
        .collect();
    files.sort();
    files.dedup();
    match files.iter().find(|f| f.contains(['/', '\\']) || *f == "..") {
        Some(file) => Err(bad(format!("the shard `{file}` lies outside the folder"))),
        None => Ok(files),
    }
}
