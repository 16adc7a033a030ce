//! Fixed weights: the same for every token and site.

use std::sync::Arc;

use super::table::{About, Role};
use crate::error::Result;
use crate::mix::{Decision, Gates, Gating, Input, Pass};
use crate::name::Site;

/// All experts with equal weights.
pub(super) const UNIFORM: About = About {
    name: "uniform",
    what: "all experts, equal weights",
    paper: "-",
    role: Role::Fixed,
    artifact: None,
    settings: &[],
    temperature: None,
    build: Some(|inputs| Ok(Arc::new(Fixed::uniform(inputs.experts.len())))),
};

/// The same weights everywhere.
#[derive(Debug)]
pub struct Fixed(Gates);

impl Fixed {
    /// These weights, one per expert in order.
    pub fn new(weights: &[f32]) -> Self {
        Fixed(Gates::shared(weights))
    }

    /// `1 / experts` each.
    pub fn uniform(experts: usize) -> Self {
        Fixed::new(&vec![1.0 / experts as f32; experts])
    }
}

impl Gating for Fixed {
    fn gates(&self, _: &Site, _: Input<'_>, _: &Pass<'_>) -> Result<Decision> {
        Ok(self.0.clone().into())
    }
}
