//! The logits of a model on given token ids.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use lyceum::Name;
use lyceum::mix::SeqLens;

use super::{Settings, routed};
use crate::args::ModelArgs;
use crate::out::wrote;

pub(crate) fn logits(
    args: &ModelArgs,
    tasks: Option<&Path>,
    input: &Path,
    out: &Path,
    settings: &Settings,
) -> Result<()> {
    let chosen = routed::chosen(args, &settings.session)?;
    if chosen.is_oracle() && tasks.is_none() {
        bail!("the oracle goes by the rows' tasks: name them with --task-names FILE");
    }
    let bytes = std::fs::read(input).with_context(|| input.display().to_string())?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .with_context(|| format!("{} is not a safetensors file", input.display()))?;
    let field = |name: &str| -> Result<Vec<Vec<i64>>> {
        let tensor = tensors
            .get(name)
            .with_context(|| format!("the input has no `{name}`"))?;
        Ok(tensor.to_dtype(DType::I64)?.to_vec2()?)
    };
    let (ids, mask) = (field("input_ids")?, field("attention_mask")?);
    if ids.len() != mask.len() || ids.iter().zip(&mask).any(|(i, m)| i.len() != m.len()) {
        bail!("input_ids and attention_mask must have the same shape");
    }
    let tasks = tasks.map_or_else(|| Ok(Vec::new()), |path| task_names(path, ids.len()))?;
    let model = chosen.open(settings, None)?.model;
    let (mut packed, mut lens) = (Vec::new(), Vec::new());
    for (row, mask) in ids.iter().zip(&mask) {
        let before = packed.len();
        for (id, _) in row.iter().zip(mask).filter(|(_, m)| **m != 0) {
            packed.push(u32::try_from(*id).with_context(|| format!("{id} is not a token id"))?);
        }
        lens.push(packed.len() - before);
    }
    let logits = model
        .logits(&packed, &SeqLens::new(&lens), &tasks)?
        .to_vec2::<f32>()?;
    let (b, t, v) = (ids.len(), ids[0].len(), logits.first().map_or(0, Vec::len));
    let mut padded = vec![0f32; b * t * v];
    let mut next = logits.into_iter();
    for (position, _) in mask.iter().flatten().enumerate().filter(|(_, m)| **m != 0) {
        let row = next.next().context("fewer logits than tokens")?;
        padded[position * v..][..v].copy_from_slice(&row);
    }
    let tensor = Tensor::from_vec(padded, (b, t, v), &Device::Cpu)?;
    let bytes = safetensors::serialize(BTreeMap::from([("logits", tensor)]), None)?;
    lyceum::file::write(out, &bytes)?;
    wrote(settings.format, &[out])
}

/// Reads the tasks of `rows` rows from the JSON list at `path`.
fn task_names(path: &Path, rows: usize) -> Result<Vec<Name>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    let tasks: Vec<Name> = serde_json::from_slice(&text).with_context(|| {
        format!(
            "--task-names: {} is not a JSON list of task names",
            path.display()
        )
    })?;
    if !tasks.is_empty() && tasks.len() != rows {
        let named = tasks.len();
        bail!("--task-names names {named} tasks for {rows} rows");
    }
    Ok(tasks)
}
