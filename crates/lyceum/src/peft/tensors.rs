//! Tensors as safetensors files, always f32 in memory.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::error::{Error, Result};

/// Tensors in f32 as a safetensors file; equal tensors give equal bytes.
pub(crate) fn to_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let bad = |e| Error::format("safetensors", e);
    let raw: Vec<(&String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            let bytes = bytemuck::cast_slice::<f32, u8>(&values).to_vec();
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<_>>()?;
    let views = raw
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            view.map(|v| (name.as_str(), v)).map_err(bad)
        })
        .collect::<Result<Vec<_>>>()?;
    // One key at most, or the header's order would differ between runs.
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    safetensors::serialize(views, metadata).map_err(bad)
}

/// Tensors of a safetensors file, with its metadata; f16 and bf16 are widened, which is exact.
pub(crate) fn from_bytes(
    bytes: &[u8],
) -> Result<(BTreeMap<String, Tensor>, BTreeMap<String, String>)> {
    let bad = |e| Error::format("safetensors", e);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
    let metadata = header
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    let file = SafeTensors::deserialize(bytes).map_err(bad)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => {
                let why = format!("`{name}` is {other:?}, not f32, f16 or bf16");
                return Err(Error::format("safetensors", why));
            }
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        tensors.insert(name, tensor.to_dtype(DType::F32)?);
    }
    Ok((tensors, metadata))
}
