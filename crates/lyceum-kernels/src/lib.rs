//! CPU kernels of Lyceum: forward and backward, slices in, slices out.
//!
//! Work is split into blocks of fixed size that rayon spreads over threads, so a result never
//! depends on how many threads there are. This is the only crate with `unsafe`.

pub mod activation;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
mod blocks;
pub mod cpu;
mod dots;
mod format;
mod gathered;
pub mod gemm;
pub mod lora;
pub mod loss;
pub mod map;
mod math;
pub mod memory;
pub mod norm;
mod pack;
mod product;
pub mod quantised;
pub mod rope;
pub mod route;
mod rows;
pub mod stream;
mod tile;
#[cfg(test)]
mod values;
mod vector;
mod view;
