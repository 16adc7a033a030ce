//! The readers as their users meet them: good files, damaged files and files made to harm.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod fuzz;
mod mutations;
mod random;
mod torch;
