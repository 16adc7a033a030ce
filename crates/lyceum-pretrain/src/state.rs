//! The saved state from which a pre-training run resumes: weights, moments, curves.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::{Pretrain, PretrainState};
use lyceum::error::{Context, Error, Result};
use lyceum::train::fit::Learner;

const CHECKPOINT: &str = "checkpoint.safetensors";
const PROGRESS: &str = "pretrain.json";

#[derive(Serialize, Deserialize)]
struct Kept {
    recipe: Pretrain,
    progress: PretrainState,
}

/// Writes the checkpoint, then `pretrain.json`: the latter never says more than the former holds.
pub(super) fn save(
    out: &Path,
    how: &Pretrain,
    vars: &BTreeMap<String, Var>,
    learner: &Learner,
    state: &PretrainState,
) -> Result<()> {
    let path = out.join(CHECKPOINT);
    let mut all: Vec<(String, Tensor)> = Vec::new();
    for (i, (name, var)) in vars.iter().enumerate() {
        let moment = |v: &Vec<f32>| Tensor::from_slice(v, v.len(), &Device::Cpu);
        all.push((format!("weight.{name}"), var.to_device(&Device::Cpu)?));
        all.push((
            format!("first.{name}"),
            moment(&learner.first_moments()[i])?,
        ));
        all.push((
            format!("second.{name}"),
            moment(&learner.second_moments()[i])?,
        ));
    }
    let losses = &state.losses;
    all.push((
        "losses".into(),
        Tensor::from_slice(losses, losses.len(), &Device::Cpu)?,
    ));
    let bytes = safetensors::serialize(all, None).map_err(|e| Error::format(path.display(), e))?;
    lyceum::file::write(&path, &bytes)?;
    let kept = Kept {
        recipe: how.clone(),
        progress: state.clone(),
    };
    let json = serde_json::to_vec(&kept).map_err(|e| Error::format(PROGRESS, e))?;
    lyceum::file::write(&out.join(PROGRESS), &json)
}

/// Continues what `out` holds, if anything: fills the variables and moments.
///
/// # Errors
/// [`Error::Mismatch`] when it was begun under another recipe.
pub(super) fn resume(
    out: &Path,
    how: &Pretrain,
    vars: &BTreeMap<String, Var>,
    learner: &mut Learner,
) -> Result<PretrainState> {
    let (path, json) = (out.join(CHECKPOINT), out.join(PROGRESS));
    if !path.exists() || !json.exists() {
        return Ok(PretrainState::default());
    }
    let bytes = std::fs::read(&json).map_err(|e| Error::io(&json, e))?;
    let kept: Kept =
        serde_json::from_slice(&bytes).map_err(|e| Error::format(json.display(), e))?;
    if !kept.recipe.begins(how, kept.progress.losses.len()) {
        let text = format!(
            "{} was begun under another recipe; choose another folder, or give the same recipe (steps and decay may \
             change while the learning rate is at its peak)",
            out.display()
        );
        return Err(Error::Mismatch(text));
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let all = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .context(|| format!("reading {}", path.display()))?;
    let part = |name: String| {
        all.get(&name)
            .ok_or_else(|| Error::format(path.display(), format!("no `{name}`")))
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (name, var) in vars {
        let weight = part(format!("weight.{name}"))?.to_dtype(DType::F32)?;
        var.set(&weight.to_device(var.device())?)
            .context(|| format!("`{name}` of the checkpoint has another shape than the recipe"))?;
        first.push(part(format!("first.{name}"))?.to_vec1()?);
        second.push(part(format!("second.{name}"))?.to_vec1()?);
    }
    let mut state = kept.progress;
    state.losses = part("losses".into())?.to_vec1()?;
    learner.resume(state.losses.clone(), first, second)?;
    Ok(state)
}
