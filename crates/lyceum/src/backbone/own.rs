//! The tensors of a base as its checkpoint holds them, read one at a time.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::checkpoint::Weights;
use super::config::Config;
use super::open::open;
use super::parts::Parts;
use crate::error::Result;
use crate::peft::BaseTensors;

/// A base's own tensors, by the names of its modules; a tied head is the token embedding.
pub struct OwnTensors {
    config: Config,
    weights: Weights<'static>,
}

impl std::fmt::Debug for OwnTensors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnTensors").finish_non_exhaustive()
    }
}

impl OwnTensors {
    /// Opens a folder or a GGUF file without reading its weights.
    ///
    /// # Errors
    /// As [`Base::open`](super::Base::open).
    pub fn open(path: &Path) -> Result<Self> {
        let Parts {
            mut config,
            mut weights,
            ..
        } = open(path)?;
        weights.fit(&mut config)?;
        Ok(OwnTensors { config, weights })
    }
}

impl BaseTensors for OwnTensors {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let head = format!("{}.weight", self.config.modules.head);
        let embedding = self.config.in_root(self.config.modules.tokens);
        let name = match self.config.head.tied && name == head {
            true => format!("{embedding}.weight"),
            false => name.to_owned(),
        };
        let known = self
            .config
            .tensors()
            .into_iter()
            .find(|(own, _)| *own == name);
        let Some((_, shape)) = known else {
            return Ok(None);
        };
        let values = self.weights.values(&name)?;
        Ok(Some(Tensor::from_vec(values, shape, &Device::Cpu)?))
    }
}
