//! The tensors of a checkpoint: mapped files, read one tensor at a time.

use std::collections::BTreeMap;
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

const OLD: &str = "pytorch_model.bin";

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

    /// The tensors of a folder: one file, the shards its index names, or an older torch pickle
    /// (read without running any of its code).
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let index = dir.join("model.safetensors.index.json");
        let single = dir.join("model.safetensors");
        let files = match (single.exists(), index.exists()) {
            (false, true) => shards(&index)?,
            (false, false) if dir.join(OLD).exists() => {
                let path = dir.join(OLD);
                let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
                let tensors = crate::torch::tensors(&bytes, &path.display().to_string())?;
                return Ok(Weights::made(tensors));
            }
            _ => vec!["model.safetensors".into()],
        };
        let mut all = Weights::default();
        for file in files {
            let path = dir.join(file);
            let map = Map::open(&path).map_err(|e| Error::io(&path, e))?;
            all.add(&Bytes::Map(Arc::new(map)))
                .context(|| format!("reading {}", path.display()))?;
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
            let start = view.data().as_ptr().addr() - all.as_ptr().addr();
            let range = start..start + view.data().len();
            let stored = Stored::new((bytes.clone(), range), view.shape().to_vec(), lay)
                .map_err(|why| bad(&name, why))?;
            if self.0.insert(name.clone(), stored).is_some() {
                return Err(Error::format(name, "stands in two files"));
            }
        }
        Ok(())
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
        match all.iter().all(|x: &f32| x.is_finite()) {
            true => Ok(all),
            false => Err(bad(name, "holds values that are not finite")),
        }
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
