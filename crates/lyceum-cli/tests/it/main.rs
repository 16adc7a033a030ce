//! One end-to-end test binary: the `lyceum` command as a user runs it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tests may"
)]

mod adapters;
mod bad_input;
mod base;
mod command;
mod evaluation;
mod generate;
mod help;
mod interrupt;
mod log;
mod manual;
mod members;
mod merge;
mod moved;
mod mttl;
mod other_base;
mod project;
mod remote;
mod replaced;
mod run;
#[path = "../../../lyceum/tests/it/servers/mod.rs"]
#[allow(dead_code, reason = "the library's own tests use the rest")]
mod servers;
#[path = "../../../lyceum/tests/it/tiny.rs"]
mod tiny;
mod tutorial;
mod walk;
