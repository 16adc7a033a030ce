//! The mixing rule: how the outputs of many experts become one, per token.
//!
//! This floor knows no architecture and no routing method. What the experts do to a frozen linear
//! arrives in [`Pass`], a value: nothing is ever mutated. Activations are slices, row after row;
//! only what has a gradient is a tensor.

mod bank;
mod candle;
mod decision;
mod device_factors;
mod gates;
mod linear;
mod pass;
mod seq_lens;
mod site;
mod weight;

use candle_core::Tensor;

pub use bank::Bank;
pub(crate) use candle::DeviceLinear;
pub use decision::{Decision, DeviceGates, Input};
pub use gates::Gates;
pub(crate) use linear::{Gradients, LinearInput, Routed, RoutedLinear};
pub use lyceum_kernels::lora::Mixing;
pub use pass::{Mixture, Pass, Route};
pub use seq_lens::SeqLens;
pub use site::SiteBank;
pub(crate) use weight::{Vector, Weight};

use crate::error::Result;
use crate::name::Site;

/// Decides, at each site, how much each expert contributes to each token.
pub trait Gating: Send + Sync + std::fmt::Debug {
    /// The gates at `site` for its input `x` `[t, d_in]`, t the tokens of the pass, which holds the
    /// sequences of one route only. Over an input on a device they may be decided there; weights
    /// that can be trained must be, for their gradient.
    ///
    /// # Errors
    /// When this router cannot decide, for example a task that no expert knows.
    fn gates(&self, site: &Site, x: Input<'_>, pass: &Pass<'_>) -> Result<Decision>;

    /// The trainable parameters of the gates at `site` as one flat tensor, if there are any.
    fn params(&self, _: &Site) -> Option<&Tensor> {
        None
    }

    /// The gradient of [`Gating::params`] at `site` for those of the weights of `gates`,
    /// `[t, k]`; that of `x` is added to `dx`, if wanted. Called only where there are params.
    ///
    /// # Errors
    /// When the gradient cannot be computed.
    fn backward(
        &self,
        _: &Site,
        _x: &[f32],
        _gates: &Gates,
        _dweights: &[f32],
        _dx: Option<&mut [f32]>,
    ) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

/// Sees every routing decision; for reports and explanations.
pub trait Probe: Send + Sync {
    /// Called once per site and route with the gates of the route's tokens; `pass` is limited to
    /// its sequences.
    ///
    /// # Errors
    /// Whatever the probe runs into.
    fn see(&self, site: &Site, gates: &Gates, pass: &Pass<'_>) -> Result<()>;
}
