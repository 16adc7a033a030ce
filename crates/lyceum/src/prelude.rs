//! The names that most programs need: `use lyceum::prelude::*;`.

pub use crate::backbone::{Base, Precision};
pub use crate::data::{Dataset, Example, Question, Split};
pub use crate::error::{Error, Result};
pub use crate::eval;
pub use crate::expert::Expert;
pub use crate::generate::{Chunk, FinishReason, Generation, GenerationConfig, Prompt};
pub use crate::library::{Library, Members};
pub use crate::lora::LoraConfig;
pub use crate::mix::Mixing;
pub use crate::model::Model;
pub use crate::name::{Name, Site};
pub use crate::progress::{NoProgress, Progress, Step};
pub use crate::route::Router;
pub use crate::store::Session;
pub use crate::train::{TaskGroup, TrainConfig, Trained, Trainer};
pub use crate::transform;
