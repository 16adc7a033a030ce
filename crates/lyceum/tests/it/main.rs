//! One integration test binary for the library: a module per theme.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod families;
mod floors;
mod tiny;
mod training;
