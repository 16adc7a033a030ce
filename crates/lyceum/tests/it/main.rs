//! One integration test binary for the library: a module per theme.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod bases;
mod families;
mod floors;
mod sizes;
mod tiny;
mod training;
