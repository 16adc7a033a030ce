//! Opening a base: a Hugging Face folder of config, weights and tokenizer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lyceum_kernels::gemm::Packed;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::Config;
use super::decoder::Decoder;
use crate::data::Tokenizer;
use crate::error::{Context, Error, Result};
use crate::expert::Host;
use crate::mix::{Vector, Weight};

/// The arithmetic of the frozen matrices. Everything else is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Weights and products in f32.
    #[default]
    F32,
    /// Weights and the inputs of products rounded to bf16, sums in f32.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// A frozen base with its tokenizer, ready to be shared.
#[derive(Debug)]
pub struct Base {
    /// What to call it: the folder's name.
    pub name: String,
    /// Hex SHA-256 over configuration and weights; experts remember it.
    pub fingerprint: String,
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The arithmetic it was opened with.
    pub precision: Precision,
}

impl Base {
    /// Opens the folder `dir`: `config.json`, `model.safetensors` (or shards with an index) and
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// When a file is missing or malformed, or shapes do not match the configuration.
    pub fn open(dir: &Path, precision: Precision) -> Result<Self> {
        let config = Config::read(&dir.join("config.json"))
            .context(|| format!("opening the base {}", dir.display()))?;
        let tensors = read_weights(dir)?;
        let tokenizer = Tokenizer::open(dir)?;
        let name = dir
            .file_name()
            .map_or_else(|| "base".into(), |n| n.to_string_lossy().into());
        Base::from_parts(name, config, tensors, tokenizer, precision)
    }

    /// Opens a base whose three files are in memory.
    ///
    /// # Errors
    /// As [`Base::open`].
    pub fn from_bytes(
        name: &str,
        config: &[u8],
        weights: &[u8],
        tokenizer: &[u8],
        precision: Precision,
    ) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        read_tensors(weights, &mut tensors)?;
        let config = Config::parse(config, "config.json")?;
        let tokenizer = Tokenizer::from_bytes(tokenizer)?;
        Base::from_parts(name.to_owned(), config, tensors, tokenizer, precision)
    }

    /// Assembles a base from tensors in f32.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_parts(
        name: String,
        config: Config,
        mut tensors: BTreeMap<String, Tensor>,
        tokenizer: Tokenizer,
        precision: Precision,
    ) -> Result<Self> {
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Mismatch(format!(
                "the tokenizer knows {} tokens, the base {}: they do not belong together",
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        let shapes: BTreeMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        tensors.retain(|name, _| shapes.contains_key(name));
        let fingerprint = fingerprint(&config, &tensors)?;
        let mut source = Source {
            tensors: &mut tensors,
            vars: None,
            shapes: &shapes,
            precision,
        };
        let decoder = Decoder::new(config, &mut source)?;
        Ok(Base {
            name,
            fingerprint,
            decoder,
            tokenizer,
            precision,
        })
    }

    /// This base as an expert sees it.
    pub fn host(&self) -> Host {
        Host {
            name: self.name.clone(),
            fingerprint: self.fingerprint.clone(),
            sites: self.decoder.config().sites().into_iter().collect(),
        }
    }
}

/// Where a decoder's tensors come from.
pub(crate) struct Source<'a> {
    tensors: &'a mut BTreeMap<String, Tensor>,
    vars: Option<&'a BTreeMap<String, Var>>,
    shapes: &'a BTreeMap<String, Vec<usize>>,
    precision: Precision,
}

impl<'a> Source<'a> {
    /// Trained: the decoder's tensors are these variables.
    pub(crate) fn trained(
        empty: &'a mut BTreeMap<String, Tensor>,
        vars: &'a BTreeMap<String, Var>,
        shapes: &'a BTreeMap<String, Vec<usize>>,
    ) -> Self {
        Source {
            tensors: empty,
            vars: Some(vars),
            shapes,
            precision: Precision::F32,
        }
    }

    fn take(&mut self, name: &str) -> Result<Tensor> {
        let found = match self.vars {
            Some(vars) => vars.get(name).map(|v| v.as_tensor().clone()),
            None => self.tensors.remove(name),
        };
        let tensor = found.ok_or_else(|| {
            Error::Mismatch(format!(
                "the base's weights hold no tensor `{name}`, which its config needs"
            ))
        })?;
        match self.shapes.get(name) {
            Some(shape) if shape != tensor.dims() => Err(Error::Mismatch(format!(
                "tensor `{name}` is {:?}, the base's config says {shape:?}",
                tensor.dims()
            ))),
            _ => Ok(tensor),
        }
    }

    pub(super) fn matrix(&mut self, name: &str) -> Result<Weight> {
        let tensor = self.take(name)?;
        if self.vars.is_some() {
            return Ok(Weight::Trained(tensor));
        }
        let (n_out, n_in) = tensor.dims2()?;
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        Ok(Weight::Frozen(Arc::new(match self.precision {
            Precision::F32 => Packed::f32(&values, n_out, n_in),
            Precision::Bf16 => Packed::bf16(&values, n_out, n_in),
        })))
    }

    pub(super) fn vector(&mut self, name: &str) -> Result<Vector> {
        let tensor = self.take(name)?;
        Ok(match self.vars {
            Some(_) => Vector::Trained(tensor),
            None => Vector::Frozen(tensor.to_vec1::<f32>()?.into()),
        })
    }

    pub(super) fn table(&mut self, name: &str) -> Result<Tensor> {
        self.take(name)
    }
}

fn fingerprint(config: &Config, tensors: &BTreeMap<String, Tensor>) -> Result<String> {
    let text = serde_json::to_string(config).map_err(|e| Error::format("config.json", e))?;
    let mut hash = Sha256::new().chain_update(text);
    for (name, tensor) in tensors {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        hash.update(format!("{name}{:?}", tensor.dims()));
        hash.update(bytemuck::cast_slice::<f32, u8>(&values));
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// All tensors of a folder in f32, from one file or the shards its index names.
fn read_weights(dir: &Path) -> Result<BTreeMap<String, Tensor>> {
    let index = dir.join("model.safetensors.index.json");
    let files: Vec<String> = if index.exists() {
        let bytes = std::fs::read(&index).map_err(|e| Error::io(&index, e))?;
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::format(index.display(), e))?;
        let map = value.get("weight_map").and_then(|m| m.as_object());
        let map = map.ok_or_else(|| Error::format(index.display(), "no `weight_map`"))?;
        let mut files: Vec<String> = map
            .values()
            .filter_map(|v| Some(v.as_str()?.into()))
            .collect();
        files.sort();
        files.dedup();
        if files.iter().any(|f| f.contains(['/', '\\'])) {
            return Err(Error::format(
                index.display(),
                "a shard lies outside the folder",
            ));
        }
        files
    } else {
        vec!["model.safetensors".into()]
    };
    let mut all = BTreeMap::new();
    for file in files {
        let path = dir.join(file);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        read_tensors(&bytes, &mut all).context(|| format!("reading {}", path.display()))?;
    }
    Ok(all)
}

/// Adds the tensors of one safetensors file to `all`, in f32, under Hugging Face's names.
fn read_tensors(bytes: &[u8], all: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::format("safetensors", e))?;
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            // Masks and counters that some checkpoints carry; not weights.
            _ => continue,
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        let tensor = tensor.to_dtype(DType::F32)?;
        let finite = tensor
            .flatten_all()?
            .to_vec1::<f32>()?
            .iter()
            .all(|x| x.is_finite());
        if !finite {
            return Err(Error::format(name, "holds values that are not finite"));
        }
        all.insert(name, tensor);
    }
    Ok(())
}

/// Writes a base as a Hugging Face folder, its weights in bf16.
///
/// # Errors
/// When a file cannot be written.
pub fn write_folder(
    dir: &Path,
    config: &Config,
    tensors: &BTreeMap<String, Tensor>,
    tokenizer: &Tokenizer,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut data: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let values = tensor
            .flatten_all()?
            .to_dtype(DType::BF16)?
            .to_vec1::<half::bf16>()?;
        let bytes = bytemuck::cast_slice::<half::bf16, u8>(&values).to_vec();
        data.insert(name, (tensor.dims().to_vec(), bytes));
    }
    let views: Vec<_> = data
        .iter()
        .map(|(name, (shape, bytes))| {
            let view = safetensors::tensor::TensorView::new(
                safetensors::Dtype::BF16,
                shape.clone(),
                bytes,
            );
            view.map(|v| (*name, v))
                .map_err(|e| Error::format(*name, e))
        })
        .collect::<Result<_>>()?;
    let weights =
        safetensors::serialize(views, None).map_err(|e| Error::format("model.safetensors", e))?;
    let mut config_json =
        serde_json::to_vec_pretty(config).map_err(|e| Error::format("config.json", e))?;
    config_json.push(b'\n');
    crate::file::write(&dir.join("model.safetensors"), &weights)?;
    crate::file::write(&dir.join("tokenizer.json"), &tokenizer.to_bytes()?)?;
    crate::file::write(&dir.join("config.json"), &config_json)
}
