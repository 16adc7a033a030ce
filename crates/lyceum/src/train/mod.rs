//! Training: experts into a library, gates, and the loop both share.
//!
//! [`Trainer`] trains experts into a library. [`experts`] and [`gates`] train in memory. All of
//! them run [`fit::fit`], as does the pre-training of a base, in a crate of its own.

mod adamw;
mod checkpoint;
mod config;
mod expert;
mod feed;
pub mod fit;
mod gates;
mod into;
mod plan;
mod resume;
mod schedule;
mod trainer;

pub use config::TrainConfig;
pub use expert::experts;
pub use feed::Job;
pub use gates::{Gated, gates};
pub use into::{Trained, TrainedExpert};
pub use plan::{Differing, Plan, TaskGroup};
pub use schedule::{Batches, Schedule};
pub use trainer::Trainer;

pub(crate) use gates::GateTraining;
pub(crate) use resume::Steps;
