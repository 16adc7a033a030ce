#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may"))]

pub mod arrow;
pub mod compression;
mod error;
pub mod gguf;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod sentencepiece;
mod table;
pub mod torch;

pub use error::{Error, Result};
pub use table::{Batch, TextColumn};
