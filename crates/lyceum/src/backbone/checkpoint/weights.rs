//! The tensors of a checkpoint: mapped files, read one tensor at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Tensor, Var};
use lyceum_kernels::map::Map;
use lyceum_kernels::quantised::{self, Format};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::files::{self, Files};
use super::storage::StorageType;
use super::tensor_view::{Bytes, TensorView, bad};
use crate::backbone::config::Config;
use crate::error::{Context, Error, Result};
use crate::{file, torch};

/// The tensors of a checkpoint by name.
#[derive(Debug, Default)]
pub(in crate::backbone) struct Weights<'a> {
    pub(in crate::backbone) tensors: BTreeMap<String, TensorView<'a>>,
    /// Those of types that are no weights.
    pub(in crate::backbone) others: BTreeMap<String, Other>,
    /// Warnings for the base's owner, as texts for people.
    pub(in crate::backbone) notes: Vec<String>,
}

/// A tensor whose values are not read.
#[derive(Debug)]
pub(in crate::backbone) struct Other {
    /// As the file names it: U8, I64, BOOL, ...
    pub(in crate::backbone) kind: String,
    pub(in crate::backbone) shape: Vec<usize>,
}

impl<'a> Weights<'a> {
    /// Tensors in f32 made elsewhere.
    pub(in crate::backbone) fn made(tensors: BTreeMap<String, Tensor>) -> Self {
        let stored = |(name, tensor): (String, Tensor)| (name, TensorView::made(tensor));
        Weights::found(tensors.into_iter().map(stored).collect())
    }

    /// Tensors found elsewhere.
    pub(in crate::backbone) fn found(tensors: BTreeMap<String, TensorView<'a>>) -> Self {
        Weights {
            tensors,
            ..Weights::default()
        }
    }

    /// The tensors of one safetensors file in memory.
    pub(in crate::backbone) fn of(bytes: &'a [u8]) -> Result<Self> {
        let mut all = Weights::default();
        all.add(&Bytes::Slice(bytes), "model.safetensors")?;
        Ok(all)
    }

    /// The tensors of a folder: one file, the shards its index names, or older files of
    /// `torch.save`, one or several (read without running any of their code).
    pub(in crate::backbone) fn open(dir: &Path) -> Result<Self> {
        let files = Files::of(dir)?;
        let mut all = Weights {
            notes: files.notes,
            ..Weights::default()
        };
        for file in files.names {
            let path = dir.join(file);
            let map = Map::open(&path).map_err(|e| Error::io(&path, e))?;
            let bytes = Bytes::Map(Arc::new(map));
            let what = path.display().to_string();
            file::check(&what, bytes.get())?;
            match files.saved {
                true => all.add_saved(&bytes, &what)?,
                false => all.add(&bytes, &what)?,
            }
        }
        Ok(all)
    }

    fn add(&mut self, bytes: &Bytes<'a>, what: &str) -> Result<()> {
        let all = bytes.get();
        let file = SafeTensors::deserialize(all).map_err(|_| files::damage(what, all))?;
        for (name, view) in file.tensors() {
            let lay = match view.dtype() {
                Dtype::F64 => StorageType::F64,
                Dtype::F32 => StorageType::F32,
                Dtype::F16 => StorageType::F16,
                Dtype::BF16 => StorageType::Bf16,
                Dtype::F8_E4M3 => StorageType::F8E4M3,
                Dtype::F8_E5M2 => StorageType::F8E5M2,
                other => {
                    self.put_other(name, other.to_string(), view.shape());
                    continue;
                }
            };
            let place = (bytes.clone(), within(all, view.data()));
            let stored = TensorView::new(place, view.shape().to_vec(), lay);
            let stored = stored.map_err(|why| bad(&name, why));
            self.put(&name, stored.context(|| format!("reading {what}"))?)?;
        }
        Ok(())
    }

    /// The tensors of a file of `torch.save`: where they lie if they lie in order, else in f32.
    fn add_saved(&mut self, bytes: &Bytes<'a>, what: &str) -> Result<()> {
        let all = bytes.get();
        for (name, tensor) in torch::stored(all, what)? {
            let lay = match tensor.dtype() {
                torch::Dtype::F64 => StorageType::F64,
                torch::Dtype::F32 => StorageType::F32,
                torch::Dtype::F16 => StorageType::F16,
                torch::Dtype::Bf16 => StorageType::Bf16,
                other => {
                    self.put_other(name, format!("{other:?}"), tensor.shape());
                    continue;
                }
            };
            let stored = match tensor.plain() {
                Some(raw) => {
                    let place = (bytes.clone(), within(all, raw));
                    let stored = TensorView::new(place, tensor.shape().to_vec(), lay);
                    stored.map_err(|why| bad(&name, why))?
                }
                None => {
                    let made = torch::tensor(&tensor);
                    TensorView::made(made.context(|| format!("reading `{name}` of {what}"))?)
                }
            };
            self.put(&name, stored)?;
        }
        Ok(())
    }

    fn put(&mut self, name: &str, stored: TensorView<'a>) -> Result<()> {
        match self.tensors.insert(name.to_owned(), stored) {
            None => Ok(()),
            Some(_) => Err(bad(name, "is in two files of the base")),
        }
    }

    fn put_other(&mut self, name: String, kind: String, shape: &[usize]) {
        let shape = shape.to_vec();
        self.others.insert(name, Other { kind, shape });
    }

    fn stored(&self, name: &str) -> Result<&TensorView<'a>> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::Mismatch(format!("the base's weights hold no tensor `{name}`")))
    }

    /// The shape of a tensor.
    pub(in crate::backbone) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.stored(name)?.shape)
    }

    /// The values of a tensor in f32.
    ///
    /// # Errors
    /// When there is no such tensor or it holds a value that is not finite.
    pub(in crate::backbone) fn values(&self, name: &str) -> Result<Vec<f32>> {
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
    pub(in crate::backbone) fn rows(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        self.stored(name)?.rows(first, out)?;
        finite(name, out)
    }

    /// The quantised rows of a matrix, if it is quantised on disk.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub(in crate::backbone) fn blocks(
        &self,
        name: &str,
    ) -> Result<Option<(Format, quantised::Bytes)>> {
        let stored = self.stored(name)?;
        stored.blocks().map_err(|why| bad(name, why))
    }

    /// Hex SHA-256 over what the base computes and over its weights in f32.
    pub(in crate::backbone) fn fingerprint(&self, config: &Config) -> Result<String> {
        let mut hash = Sha256::new().chain_update(config.identity()?);
        for (name, stored) in &self.tensors {
            hash.update(format!("{name}{:?}", stored.shape));
            stored.each(|values| hash.update(bytemuck::cast_slice::<f32, u8>(values)))?;
        }
        Ok(crate::digest::hex(hash.finalize()))
    }
}

/// The variable called `name`.
pub(in crate::backbone) fn variable(vars: &BTreeMap<String, Var>, name: &str) -> Result<Tensor> {
    let found = vars.get(name).map(|v| v.as_tensor().clone());
    found.ok_or_else(|| Error::Mismatch(format!("there is no variable `{name}`")))
}

fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(bad(name, "holds values that are not finite")),
    }
}

/// The range of `part` within `all`, of which it is a slice.
fn within(all: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - all.as_ptr().addr();
    start..start + part.len()
}
