//! The tensors of a checkpoint: mapped files, read one tensor at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use half::{bf16, f16};
use lyceum_kernels::map::Map;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::config::Config;
use crate::error::{Context, Error, Result};

const OLD: &str = "pytorch_model.bin";

/// Values converted at once when a tensor is only looked at.
const CHUNK: usize = 1 << 16;

/// Bytes that hold tensors.
#[derive(Debug, Clone)]
enum Bytes<'a> {
    Slice(&'a [u8]),
    Map(Arc<Map>),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Slice(bytes) => bytes,
            Bytes::Map(map) => map,
        }
    }
}

#[derive(Debug)]
enum Values<'a> {
    /// On disk, or in a file held in memory.
    Raw(Bytes<'a>, Range<usize>, Dtype),
    /// Made here, f32.
    Tensor(Tensor),
}

#[derive(Debug)]
struct Stored<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

/// The tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(super) struct Weights<'a>(BTreeMap<String, Stored<'a>>);

impl<'a> Weights<'a> {
    /// Tensors in f32 made elsewhere.
    pub(super) fn made(tensors: BTreeMap<String, Tensor>) -> Self {
        let stored = |(name, tensor): (String, Tensor)| {
            let shape = tensor.dims().to_vec();
            let values = Values::Tensor(tensor);
            (name, Stored { shape, values })
        };
        Weights(tensors.into_iter().map(stored).collect())
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
            let float = matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16);
            // Masks and counters that some checkpoints carry; not weights.
            if !float {
                continue;
            }
            let start = view.data().as_ptr().addr() - all.as_ptr().addr();
            let range = start..start + view.data().len();
            let stored = Stored {
                shape: view.shape().to_vec(),
                values: Values::Raw(bytes.clone(), range, view.dtype()),
            };
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
            false => Err(Error::format(name, "holds values that are not finite")),
        }
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

impl Stored<'_> {
    /// Shows all values in order, some at a time.
    fn each(&self, mut see: impl FnMut(&[f32])) -> Result<()> {
        let (bytes, dtype) = match &self.values {
            Values::Tensor(tensor) => {
                see(&tensor.flatten_all()?.to_vec1::<f32>()?);
                return Ok(());
            }
            Values::Raw(bytes, range, dtype) => (&bytes.get()[range.clone()], *dtype),
        };
        let mut some = Vec::with_capacity(CHUNK);
        let width = if dtype == Dtype::F32 { 4 } else { 2 };
        for bytes in bytes.chunks(CHUNK * width) {
            some.clear();
            match dtype {
                Dtype::F32 => some.extend(parts::<4>(bytes).map(f32::from_le_bytes)),
                Dtype::F16 => some.extend(parts(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
                _ => some.extend(parts(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
            }
            see(&some);
        }
        Ok(())
    }
}

fn parts<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
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
