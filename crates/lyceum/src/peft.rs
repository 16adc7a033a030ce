//! An expert's folder is a PEFT adapter folder plus `card.json`: any PEFT tool can load it.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::error::{Error, Result};
use crate::expert::{Card, Expert};
use crate::lora::Lora;
use crate::name::Site;

/// PEFT's weights file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's configuration file.
pub const CONFIG: &str = "adapter_config.json";
/// Our card; written last, so that an expert with a card is whole.
pub const CARD: &str = "card.json";

const PREFIX: &str = "base_model.model.";

/// The files of an expert's folder, in the order to write them.
///
/// # Errors
/// When a tensor cannot be read.
pub fn encode(expert: &Expert) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut tensors = BTreeMap::new();
    for (site, lora) in &expert.loras {
        tensors.insert(format!("{PREFIX}{site}.lora_A.weight"), lora.a.clone());
        tensors.insert(format!("{PREFIX}{site}.lora_B.weight"), lora.b.clone());
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let modules: BTreeSet<&str> = expert
        .loras
        .keys()
        .map(|s| s.as_str().rsplit('.').next().unwrap_or(s.as_str()))
        .collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": expert.card.base_name,
        "r": expert.card.lora.rank,
        "lora_alpha": expert.card.lora.alpha,
        "use_rslora": expert.card.lora.rslora,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
    });
    let json = |value: serde_json::Result<Vec<u8>>, file| {
        value.map_err(|e| Error::format(file, e)).map(|mut bytes| {
            bytes.push(b'\n');
            bytes
        })
    };
    Ok(vec![
        (WEIGHTS, to_bytes(&tensors, metadata)?),
        (CONFIG, json(serde_json::to_vec_pretty(&config), CONFIG)?),
        (CARD, json(serde_json::to_vec_pretty(&expert.card), CARD)?),
    ])
}

/// Reads an expert from its files, checking the weights against the card.
///
/// # Errors
/// [`Error::Format`] naming the file that is not what it should be.
pub fn decode(what: &str, file: impl Fn(&str) -> Result<Vec<u8>>) -> Result<Expert> {
    let card: Card = serde_json::from_slice(&file(CARD)?)
        .map_err(|e| Error::format(format!("{what}/{CARD}"), e))?;
    let bad = |why: String| Error::format(format!("{what}/{WEIGHTS}"), why);
    let mut factors = from_bytes(&file(WEIGHTS)?)
        .map_err(|e| bad(e.to_string()))?
        .0;
    let mut loras = BTreeMap::new();
    while let Some((name, first)) = factors.pop_first() {
        let path = name
            .strip_prefix(PREFIX)
            .and_then(|n| n.strip_suffix(".lora_A.weight"));
        let Some(path) = path else {
            return Err(bad(format!("unexpected tensor `{name}`")));
        };
        let b = factors
            .remove(&format!("{PREFIX}{path}.lora_B.weight"))
            .ok_or_else(|| bad(format!("`{path}` has a lora_A but no lora_B")))?;
        let lora = Lora::new(first, b, card.lora.scale()).map_err(|e| bad(e.to_string()))?;
        loras.insert(Site::new(path), lora);
    }
    let sealed = card.weights.clone();
    let expert = Expert::new(card, loras)?;
    if expert.card.weights != sealed {
        return Err(bad(
            "the weights are not those the card was written for".into()
        ));
    }
    Ok(expert)
}

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

/// Tensors of a safetensors file in f32, with its metadata.
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
        if view.dtype() != safetensors::Dtype::F32 {
            return Err(Error::format("safetensors", format!("`{name}` is not f32")));
        }
        let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), &Device::Cpu)?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, metadata))
}
