//! A base as its files hold it.

use super::chat::Said;
use super::checkpoint::Weights;
use super::config::Config;
use crate::data::Tokenizer;

/// A base on disk, not prepared for computing.
pub(super) struct Parts<'a> {
    pub(super) name: String,
    pub(super) config: Config,
    pub(super) weights: Weights<'a>,
    pub(super) said: Said,
    pub(super) tokenizer: Tokenizer,
    /// The notes of [`Base::notes`].
    pub(super) notes: Vec<String>,
}
