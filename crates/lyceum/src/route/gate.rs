//! The gates PhatGOOSE trains: each token of an example weighs its own expert by
//! `sigmoid(v . x)`. Gates of many experts train in one pass, each on its own examples.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::oracle::one_hot;
use crate::error::{Error, Result};
use crate::mix::{Gates, Pass, Router};
use crate::name::{Name, Site};

/// `sigmoid(v_e . x)` for the expert `e` that an example belongs to, 0 for all others.
#[derive(Debug)]
pub struct TrainedGates {
    /// Per site the gates of all experts, `[e, d_in]`.
    sites: BTreeMap<Site, Tensor>,
    owners: Vec<Name>,
}

/// The router for training: `vectors[site]` are the gates `[1, d_in]` of the experts in `owners`,
/// in that order. A pass names each sequence's expert in its `tasks`.
///
/// # Errors
/// When vectors of one site differ in width.
pub fn trained_gates(
    vectors: &BTreeMap<Site, Vec<Tensor>>,
    owners: Vec<Name>,
) -> Result<TrainedGates> {
    let stack = |(site, rows): (&Site, &Vec<Tensor>)| Ok((site.clone(), Tensor::cat(rows, 0)?));
    Ok(TrainedGates {
        sites: vectors.iter().map(stack).collect::<Result<_>>()?,
        owners,
    })
}

impl Router for TrainedGates {
    fn gates(&self, site: &Site, x: &Tensor, pass: &Pass<'_>) -> Result<Gates> {
        let rows = self
            .sites
            .get(site)
            .ok_or_else(|| Error::Mismatch(format!("no gate is trained at `{site}`")))?;
        let index = |name: &Name| {
            let found = self.owners.iter().position(|owner| owner == name);
            found.ok_or_else(|| Error::not_found("expert", name.as_str(), []))
        };
        let chosen: Vec<usize> = pass.tasks.iter().map(index).collect::<Result<_>>()?;
        let own = one_hot(pass.segments.owners().map(|s| chosen[s]), self.owners.len())?;
        let logits = x.matmul(&rows.t()?)?; // [t, e]
        // 1 / (1 + exp(-z)), from differentiable parts.
        let gates = (logits.neg()?.exp()? + 1.0)?.recip()?;
        Ok(Gates::Token(gates.mul(&own)?))
    }
}
