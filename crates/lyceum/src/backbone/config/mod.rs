//! Decoder configurations: every family is described by the fields of one [`Config`].

mod architecture;
mod defaults;
mod family;
mod fields;
mod gpt;
mod idle;
pub(super) mod layout;
mod llama;
mod modules;
mod read;
mod rope;
mod rope_fields;
mod types;

pub(super) use family::config;
pub use family::families;
pub use gpt::{GptNeo, Span};
pub use rope::{Rope, Scaling};
pub(super) use types::Linear;
pub use types::{
    Attention, Config, Head, Layer, Mlp, MlpShape, Norm, NormKind, Positions, Qkv, Residual,
};

#[cfg(test)]
mod tests;
