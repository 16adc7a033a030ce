//! One end-to-end test binary: the `lyceum` command as a user runs it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod help;
mod mttl;
