//! The frozen language model under every expert.
//!
//! One decoder, described by data: families differ in [`Config`], not in code paths of their own.
//! It is shared (`Arc`) and never modified; what experts do to it arrives with the
//! [`Pass`](crate::mix::Pass).

mod architecture;
mod attention;
mod block;
mod cache;
mod candle;
mod chat;
mod checkpoint;
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
mod info;
mod llama;
mod load;
mod load_options;
mod logit_rows;
mod mlp;
mod norm;
mod own;
mod pattern;
mod rope;
mod rope_fields;
mod tensor_view;
mod weights;

pub use cache::Cache;
pub use chat::{Chat, Message};
pub use config::Config;
pub use decoder::{Decoder, Logits};
pub use family::families;
pub use gpt::{GptNeo, Span};
pub use info::{BaseInfo, SiteShape};
pub use load::{Base, write_folder};
pub use load_options::{LoadOptions, Precision};
pub use own::OwnTensors;
pub use pattern::SitePattern;
pub use rope::{Rope, Scaling};

#[cfg(test)]
mod tests;
