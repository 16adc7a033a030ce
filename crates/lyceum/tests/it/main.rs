//! One integration test binary for the library: a module per theme.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tests may"
)]

mod adapters;
mod bases;
mod candle;
mod checkpoints;
mod config_fields;
mod data;
mod device;
mod events;
mod families;
mod faults;
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
mod library_size;
mod made;
mod mixed;
mod mttl;
mod own_router;
mod parquet;
mod perplexity;
mod quantised;
mod recipes;
mod remote;
mod router_laws;
mod routes;
mod saved;
mod selections;
#[allow(dead_code, reason = "the command's own tests use the rest")]
mod servers;
mod sessions;
mod shipped;
mod sizes;
mod smollm2;
mod store_laws;
mod text;
mod threads;
mod tiny;
mod training;
mod training_gates;
mod training_into;
mod work;
