//! Opening a base: a Hugging Face folder of config, weights and tokenizer, or a GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lyceum_kernels::gemm::{Packed, Rounding};

use super::chat::{Chat, Said};
use super::checkpoint;
use super::config::Config;
use super::decoder::Decoder;
use super::gguf;
use super::gpt::GptNeo;
use super::load_options::{LoadOptions, Precision};
use super::tensor_view::bad;
use super::weights::Weights;
use crate::data::Tokenizer;
use crate::error::{Context, Error, Hint, Result};
use crate::expert::{BaseMatch, TargetBase};
use crate::mix::{Vector, Weight};

/// A frozen base with its tokenizer, ready to be shared.
#[derive(Debug)]
pub struct Base {
    /// The folder's name.
    pub name: String,
    /// Hex SHA-256 over configuration and weights; experts remember it.
    pub fingerprint: String,
    /// Hex SHA-256 over the architecture alone: the same network in other bytes has the same one.
    pub family_fingerprint: String,
    /// The decoder.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The arithmetic it was opened with.
    pub precision: Precision,
    /// Tokens that end a text: the tokenizer's end-of-text and those the base names.
    pub stops: BTreeSet<u32>,
    /// The chat templates.
    pub chat: Chat,
    /// Which experts it accepts.
    pub accepts: BaseMatch,
    /// Warnings for people, a sentence each: contradictions in its files and how they were
    /// resolved, and parts of them that are not used.
    pub notes: Vec<String>,
}

impl Base {
    /// Opens a folder: `config.json`, `model.safetensors` (or shards with an index),
    /// `tokenizer.json`, and, where there are, `generation_config.json` and a chat template; or a
    /// GGUF file, which holds all that. Weights are mapped and converted one at a time.
    ///
    /// # Errors
    /// When a file is missing or malformed, or shapes do not match the configuration.
    pub fn open(path: &Path, place: impl Into<LoadOptions>) -> Result<Self> {
        Base::new(Parts::open(path)?, place.into())
    }

    /// Reads a base from the contents of its three files.
    ///
    /// # Errors
    /// As [`Base::open`].
    pub fn from_bytes(
        name: &str,
        config: &[u8],
        weights: &[u8],
        tokenizer: &[u8],
        place: impl Into<LoadOptions>,
    ) -> Result<Self> {
        let weights = Weights::of(weights)?;
        let config = Config::parse(config, "config.json")?;
        let tokenizer = Tokenizer::from_bytes(tokenizer)?;
        let name = name.to_owned();
        let said = Said::default();
        let parts = Parts {
            name,
            config,
            weights,
            said,
            tokenizer,
            notes: Vec::new(),
        };
        Base::new(parts, place.into())
    }

    /// Assembles a base from tensors in f32.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than `config` says.
    pub fn from_parts(
        name: String,
        config: Config,
        tensors: BTreeMap<String, Tensor>,
        tokenizer: Tokenizer,
        place: impl Into<LoadOptions>,
    ) -> Result<Self> {
        let weights = Weights::made(tensors);
        let said = Said::default();
        let parts = Parts {
            name,
            config,
            weights,
            said,
            tokenizer,
            notes: Vec::new(),
        };
        Base::new(parts, place.into())
    }

    fn new(parts: Parts<'_>, LoadOptions { precision, device }: LoadOptions) -> Result<Self> {
        let Parts {
            name,
            mut config,
            mut weights,
            said,
            mut tokenizer,
            mut notes,
        } = parts;
        tokenizer.doubt(&config.model_type);
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Mismatch(format!(
                "the tokenizer has {} tokens, the base {}: they do not match",
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        if precision == Precision::Int8 && device.is_some() {
            return Err(
                Error::invalid("matrices are kept in eight bits on the processor only").hint(
                    Hint::Set {
                        option: "precision",
                        value: "bf16",
                    },
                ),
            );
        }
        weights.fit(&mut config)?;
        notes.append(&mut config.notes);
        notes.append(&mut weights.notes);
        let fingerprint = weights.fingerprint(&config)?;
        let mut source = Source {
            from: From::Weights(&weights),
            precision,
            device,
        };
        let decoder = Decoder::new(config, &mut source)?;
        let mut stops = said.stops;
        stops.insert(tokenizer.eos());
        Ok(Base {
            name,
            fingerprint,
            family_fingerprint: decoder.config().family_fingerprint()?,
            decoder,
            tokenizer,
            precision,
            stops,
            chat: said.chat,
            accepts: BaseMatch::default(),
            notes,
        })
    }

    /// Changes which experts the base accepts.
    #[must_use]
    pub fn accepting(mut self, accepts: BaseMatch) -> Self {
        self.accepts = accepts;
        self
    }

    /// This base as an expert sees it.
    pub fn host(&self) -> TargetBase {
        TargetBase {
            name: self.name.clone(),
            fingerprint: self.fingerprint.clone(),
            family_fingerprint: self.family_fingerprint.clone(),
            accepts: self.accepts,
            sites: self.decoder.config().sites().into_iter().collect(),
        }
    }
}

/// A base on disk, not prepared for computing.
pub(super) struct Parts<'a> {
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) weights: Weights<'a>,
    pub(super) said: Said,
    pub(super) tokenizer: Tokenizer,
    /// The notes of [`Base::notes`].
    pub(super) notes: Vec<String>,
}

impl Parts<'static> {
    /// Opens a folder or a GGUF file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opening = || format!("opening the base {}", path.display());
        if path.is_file() {
            return gguf::open(path).context(opening);
        }
        let config = path.join("config.json");
        if path.is_dir() && !config.exists() {
            return Err(Error::invalid(format!(
                "{} has no config.json, which describes the base{}",
                path.display(),
                checkpoint::instead(path)
            )));
        }
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
        ] {
            crate::file::check_start(&path.join(name))?;
        }
        Ok(Parts {
            name: name_of(path),
            config: Config::read(&config).context(opening)?,
            weights: Weights::open(path)?,
            said: Said::open(path)?,
            tokenizer: Tokenizer::open(path)?,
            notes: Vec::new(),
        })
    }
}

/// The name of the base in `dir`.
fn name_of(dir: &Path) -> String {
    dir.file_name()
        .map_or_else(|| "base".into(), |n| n.to_string_lossy().into())
}

/// A source of a decoder's tensors.
pub(crate) struct Source<'a> {
    from: From<'a>,
    precision: Precision,
    device: Option<Device>,
}

#[derive(Clone, Copy)]
enum From<'a> {
    Vars(&'a BTreeMap<String, Var>, Rounding),
    Weights(&'a Weights<'a>),
}

impl<'a> Source<'a> {
    /// Trained: the decoder's tensors are these variables, which have the right shapes; products
    /// round them so. Where they are on `device` all is composed there, else the kernels compute.
    pub(crate) fn trained(
        vars: &'a BTreeMap<String, Var>,
        rounding: Rounding,
        device: Option<&Device>,
    ) -> Self {
        Source {
            from: From::Vars(vars, rounding),
            precision: Precision::F32,
            device: device.cloned(),
        }
    }

    /// The device on which candle's operations compute; `None` for the CPU kernels.
    pub(super) fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// The values of a tensor of the weights on the device.
    fn placed(&self, weights: &Weights<'_>, name: &str, device: &Device) -> Result<Tensor> {
        let shape = weights.shape(name)?.to_vec();
        let values = Tensor::from_vec(weights.values(name)?, shape, &Device::Cpu)?;
        Ok(values.to_device(device)?)
    }

    /// The rounding of products' factors.
    pub(super) fn rounding(&self) -> Rounding {
        match (self.from, self.precision) {
            (From::Vars(_, rounding), _) => rounding,
            (_, Precision::Bf16) => Rounding::Bf16,
            (_, Precision::F32 | Precision::Int8) => Rounding::F32,
        }
    }

    /// A matrix `[d_out, d_in]`, which lies the other way round when `transposed`.
    pub(super) fn matrix(&mut self, name: &str, transposed: bool) -> Result<Weight> {
        let weights = match self.from {
            From::Vars(vars, rounding) => {
                let matrix = var(vars, name)?;
                let matrix = if transposed { matrix.t()? } else { matrix };
                return Ok(Weight::Plain(matrix, rounding));
            }
            From::Weights(weights) => weights,
        };
        if let Some(device) = &self.device {
            let mut matrix = self.placed(weights, name, device)?;
            if transposed {
                matrix = matrix.t()?.contiguous()?;
            }
            if self.precision == Precision::Bf16 {
                matrix = matrix.to_dtype(DType::BF16)?;
            }
            return Ok(Weight::Plain(matrix, self.rounding()));
        }
        let &[mut n_out, mut n_in] = weights.shape(name)? else {
            return Err(Error::Mismatch(format!("tensor `{name}` is not a matrix")));
        };
        if let (Some((format, bytes)), false) = (weights.blocks(name)?, transposed) {
            let packed = Packed::quantised((format, bytes), (n_out, n_in), self.rounding());
            return Ok(Weight::Frozen(Arc::new(packed)));
        }
        // What lies the other way round is transposed as a whole.
        let mut whole = None;
        if transposed {
            whole = Some(transpose(&weights.values(name)?, n_out, n_in));
            (n_out, n_in) = (n_in, n_out);
        }
        let read = |first: usize, rows: &mut [f32]| -> Result<()> {
            match &whole {
                Some(all) => rows.copy_from_slice(&all[first * n_in..][..rows.len()]),
                None => weights.rows(name, first, rows)?,
            }
            let fits =
                |w: &f32| self.precision != Precision::Int8 || w.abs() <= Packed::LARGEST_INT8;
            match rows.iter().all(fits) {
                true => Ok(()),
                false => Err(bad(name, "has values too large for int8")),
            }
        };
        let packed = Packed::read((n_out, n_in), self.precision, read)?;
        Ok(Weight::Frozen(Arc::new(packed)))
    }

    /// A bias or a norm's parameter.
    pub(super) fn vector(&mut self, name: &str) -> Result<Vector> {
        Ok(match (self.from, &self.device) {
            (From::Vars(vars, _), _) => Vector::Plain(var(vars, name)?),
            (From::Weights(weights), None) => Vector::Frozen(weights.values(name)?.into()),
            (From::Weights(weights), Some(device)) => {
                Vector::Plain(self.placed(weights, name, device)?)
            }
        })
    }

    /// A table whose rows are looked up.
    pub(super) fn table(&mut self, name: &str) -> Result<Tensor> {
        match self.from {
            From::Vars(vars, _) => var(vars, name),
            From::Weights(weights) => {
                let device = self.device.as_ref().unwrap_or(&Device::Cpu);
                self.placed(weights, name, device)
            }
        }
    }
}

fn var(vars: &BTreeMap<String, Var>, name: &str) -> Result<Tensor> {
    let found = vars.get(name).map(|v| v.as_tensor().clone());
    found.ok_or_else(|| Error::Mismatch(format!("there is no variable `{name}`")))
}

/// `[n, m]` to `[m, n]`.
fn transpose(values: &[f32], n: usize, m: usize) -> Vec<f32> {
    let column = |j: usize| (0..n).map(move |i| values[i * m + j]);
    (0..m).flat_map(column).collect()
}

/// Writes a base as a Hugging Face folder, its weights in bf16.
///
/// # Errors
/// When a file cannot be written.
pub fn write_folder(
    dir: &Path,
    config: &GptNeo,
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
