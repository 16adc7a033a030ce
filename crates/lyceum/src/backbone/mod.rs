//! The frozen language model under every expert.
//!
//! One decoder, described by data: families differ in [`Config`], not in code paths of their own.
//! It is shared (`Arc`) and never modified; what experts do to it arrives with the
//! [`Pass`](crate::mix::Pass).

mod architecture;
mod attention;
mod block;
mod cache;
mod chat;
mod checkpoint;
mod composed;
pub mod config;
mod decoder;
mod defaults;
mod family;
mod fields;
mod fit;
mod gguf;
mod gpt;
mod head;
mod idle;
mod llama;
mod load;
mod mlp;
mod norm;
mod own;
mod pattern;
mod place;
mod rope;
mod rope_fields;
mod stored;
mod summary;
mod wanted;
mod weights;

pub use cache::Cache;
pub use chat::{Chat, Message};
pub use config::Config;
pub use decoder::{Decoder, Logits};
pub use family::families;
pub use gpt::{GptNeo, Span};
pub use load::{Base, write_folder};
pub use own::OwnTensors;
pub use pattern::SitePattern;
pub use place::{Place, Precision};
pub use rope::{Rope, Scaling};
pub use summary::{SiteShape, Summary};

#[cfg(test)]
mod tests;
