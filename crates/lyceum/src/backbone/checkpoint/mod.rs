//! Reads checkpoints: the files of a folder, and their tensors, one at a time.

mod files;
mod fit;
mod storage;
mod tensor_view;
mod weights;

pub(super) use files::instead;
pub(super) use storage::{RowOrder, StorageType};
pub(super) use tensor_view::{Bytes, TensorView, bad};
pub(super) use weights::{Weights, variable};
