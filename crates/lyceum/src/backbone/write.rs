//! Writes a base as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::config::GptNeo;
use crate::data::Tokenizer;
use crate::error::{Error, Result};

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
