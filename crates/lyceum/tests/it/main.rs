//! One integration test binary for the library: a module per theme.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod bases;
mod families;
mod floors;
mod gguf;
mod golden;
mod golden_derived;
mod golden_eval;
mod golden_peft;
mod golden_routing;
mod golden_training;
mod hostile;
mod library;
mod made;
mod mixed;
mod mttl;
mod parquet;
mod pretraining;
mod quantised;
mod router_laws;
mod sizes;
mod tiny;
mod training;
