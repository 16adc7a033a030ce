//! One end-to-end test binary: the `lyceum` command as a user runs it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod bad_input;
mod base;
mod command;
mod help;
mod merge;
mod mttl;
mod run;
#[path = "../../../lyceum/tests/it/tiny.rs"]
mod tiny;
mod walk;
