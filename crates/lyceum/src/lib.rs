//! Lyceum: train many LoRA experts on a frozen language model, keep them in a library, cluster
//! them, route between them per token, and evaluate them.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may"))]

pub mod error;
pub mod name;
pub mod rng;

pub use error::{Context, Error, Result};
pub use name::{Name, Site};
