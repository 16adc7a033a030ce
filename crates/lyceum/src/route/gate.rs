//! The gates PhatGOOSE trains: each token of an example weighs its own expert by
//! `sigmoid(v . x)`. Gates of many experts train in one pass, each on its own examples.

use std::collections::BTreeMap;

use candle_core::Tensor;
use lyceum_kernels::route;

use crate::error::{Error, Result};
use crate::mix::{Decision, DeviceGates, Gates, Gating, Input, Pass};
use crate::name::{Name, Site};
use crate::ops;

/// `sigmoid(v_e . x)` for the expert `e` that an example belongs to, 0 for all others.
#[derive(Debug)]
pub struct TrainedGates {
    /// Per site the gates of all experts end to end, `[e * d_in]`.
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
    let stack = |(site, rows): (&Site, &Vec<Tensor>)| {
        let all = Tensor::cat(rows, 0)?.flatten_all()?;
        Ok((site.clone(), all))
    };
    Ok(TrainedGates {
        sites: vectors.iter().map(stack).collect::<Result<_>>()?,
        owners,
    })
}

impl TrainedGates {
    fn vectors(&self, site: &Site) -> Result<&Tensor> {
        let found = self.sites.get(site);
        found.ok_or_else(|| Error::Mismatch(format!("no gate is trained at `{site}`")))
    }
}

impl TrainedGates {
    /// The expert of every token, `[t]`, for `n` values of input at `site`.
    fn experts(&self, site: &Site, n: usize, pass: &Pass<'_>) -> Result<Vec<u32>> {
        let index = |name: &Name| {
            let found = self.owners.iter().position(|owner| owner == name);
            let found = found.map(|e| e as u32);
            found.ok_or_else(|| Error::not_found("expert", name.as_str(), []))
        };
        let chosen: Vec<u32> = pass.tasks.iter().map(index).collect::<Result<_>>()?;
        let experts: Vec<u32> = pass.seq_lens.seq_ids().map(|s| chosen[s]).collect();
        if n * self.owners.len() != self.vectors(site)?.elem_count() * experts.len() {
            return Err(Error::Mismatch(format!(
                "the gates at `{site}` have another width"
            )));
        }
        Ok(experts)
    }
}

impl Gating for TrainedGates {
    fn gates(&self, site: &Site, x: Input<'_>, pass: &Pass<'_>) -> Result<Decision> {
        let experts = self.experts(site, x.elem_count(), pass)?;
        let x = match x {
            Input::Host(x) => {
                let weights = route::gate(&ops::values(self.vectors(site)?)?, &experts, x);
                return Ok(Gates::known(1, experts, weights).into());
            }
            Input::Device(x) => x,
        };
        let vectors = self.vectors(site)?.to_device(x.device())?;
        let vectors = vectors.reshape((self.owners.len(), x.dims2()?.1))?;
        let own = Tensor::new(experts, x.device())?;
        let dots = (x * vectors.index_select(&own, 0)?)?.sum_keepdim(1)?;
        let weights = ops::candle::sigmoid(&dots)?; // [t, 1]
        Ok(Decision::Device(DeviceGates::new(
            own.unsqueeze(1)?,
            weights,
        )?))
    }

    fn params(&self, site: &Site) -> Option<&Tensor> {
        self.sites.get(site).filter(|vectors| vectors.track_op())
    }

    fn backward(
        &self,
        site: &Site,
        x: &[f32],
        gates: &Gates,
        dweights: &[f32],
        dx: Option<&mut [f32]>,
    ) -> Result<Vec<f32>> {
        let vectors = ops::values(self.vectors(site)?)?;
        let mut dvectors = vec![0.0; vectors.len()];
        let forward = route::GateForward {
            vectors: &vectors,
            owners: gates.indices(),
            x,
            gates: gates.weights(),
        };
        route::gate_backward(forward, dweights, &mut dvectors, dx);
        Ok(dvectors)
    }
}
