//! The frozen language model under every expert.
//!
//! One decoder, described by data: families differ in [`Config`], not in code paths of their own.
//! It is shared (`Arc`) and never modified; what experts do to it arrives with the
//! [`Pass`](crate::mix::Pass).

mod cache;
mod candle;
mod chat;
mod checkpoint;
pub mod config;
mod cpu;
mod decoder;
mod gguf;
mod info;
mod load;
mod load_options;
mod open;
mod own;
mod parts;
mod pattern;
mod write;

pub use cache::Cache;
pub use chat::{Chat, Message};
pub use config::{Config, GptNeo, Rope, Scaling, Span, families};
pub use decoder::{Decoder, Logits};
pub use info::BaseInfo;
pub use load::Base;
pub use load_options::{LoadOptions, Precision};
pub use own::OwnTensors;
pub use pattern::{SitePattern, SiteShape};
pub use write::write_folder;

#[cfg(test)]
mod tests;
