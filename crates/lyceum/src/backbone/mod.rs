//! The frozen language model under every expert.
//!
//! One decoder, described by data: families differ in [`Config`], not in code paths of their own.
//! It is shared (`Arc`) and never modified; what experts do to it arrives with the
//! [`Pass`](crate::mix::Pass).

mod cache;
mod config;
mod decoder;
mod load;

pub use cache::Cache;
pub use config::{Config, Span};
pub use decoder::{Decoder, Logits};
pub(crate) use load::Source;
pub use load::{Base, Precision, write_folder};
