//! Lyceum: train many LoRA experts on a frozen language model, keep them in a library, cluster
//! them, route between them per token, and evaluate them.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may"))]

// F0: words and numbers.
pub mod device;
pub(crate) mod digest;
pub mod error;
mod feature;
pub mod file;
pub mod metrics;
pub mod name;
pub mod progress;
pub mod rng;
// F1: experts.
pub mod artifact;
pub mod expert;
pub mod library;
pub mod lora;
pub mod mttl;
pub mod peft;
pub mod store;
mod torch;
// F2: data.
pub mod data;
// F3: mixing.
pub mod mix;
pub mod ops;
// F4: routers, models.
#[cfg_attr(not(feature = "assets"), path = "assets/disabled.rs")]
pub mod assets;
pub mod backbone;
pub mod generate;
pub mod model;
pub mod route;
// F5: training.
pub mod train;
// F6: what is done.
pub mod check;
pub mod eval;
pub mod merge;
pub mod report;
pub mod transform;
// F7: whole experiments.
pub mod recipe;

pub mod prelude;

pub use candle_core::{Device, Tensor};
pub use error::{Context, Error, ErrorKind, Hint, RemoteErrorKind, Result};
pub use name::{Name, Site};

/// The README's program, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
