//! Lyceum's side of the benchmarks; `bench/run` starts it beside the peers of `bench/peers`.
//!
//! One process per step. Every line on stdin is one turn of the named variant; every turn answers
//! with one line of JSON. How it is measured is told in `docs/numbers.md`.
#![allow(
    clippy::print_stdout,
    reason = "what is measured is printed for the process that asked"
)]

mod forward;
mod generate;
mod inputs;
mod llama;
mod products;
mod score;
mod together;
mod train;
mod turns;

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use clap::{Parser, ValueEnum};
use lyceum::backbone::Precision;

/// One step of the benchmarks.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Step {
    /// Opens the device and adds up a few numbers there; no turns.
    Probe,
    /// Libraries and token ids, made once; no turns.
    Prepare,
    /// Losses of 8 x 256 tokens under every router.
    Forward,
    /// A LoRA training step on 8 x 256 tokens.
    Train,
    /// LoRA training steps on real tasks of unequal lengths.
    Ragged,
    /// Ten experts in one pass, and one after another.
    Together,
    /// ARC-Easy.
    Score,
    /// Greedy generation.
    Generate,
    /// Forward and decoding of a Llama of 1.2 billion parameters.
    Llama,
    /// Matrix products and memory.
    Products,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Bf16,
    F32,
}

#[derive(Debug, Parser)]
struct Cli {
    step: Step,
    /// The folder `bench/run` made.
    #[arg(long)]
    work: PathBuf,
    /// Storage of bases and rounding of products: bf16 or f32.
    #[arg(long, default_value = "bf16")]
    precision: Kind,
    /// Device of the bases: cpu; cuda, cuda:N or metal in a build with that feature.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// All 2376 questions of ARC-Easy, not a part of them.
    #[arg(long)]
    full: bool,
}

fn main() -> anyhow::Result<()> {
    lyceum_kernels::memory::keep_freed();
    let Cli {
        step,
        work,
        precision,
        device,
        full,
    } = Cli::parse();
    let precision = match precision {
        Kind::Bf16 => Precision::Bf16,
        Kind::F32 => Precision::F32,
    };
    let work = inputs::Work {
        dir: work,
        precision,
        device: lyceum::device::device(&device)?,
    };
    match step {
        Step::Probe => probe(&work.device),
        Step::Prepare => inputs::prepare(&work),
        Step::Forward => forward::serve(&work),
        Step::Train => train::equal(&work),
        Step::Ragged => train::ragged(&work),
        Step::Together => together::serve(&work),
        Step::Score => score::serve(&work, full),
        Step::Generate => generate::serve(&work),
        Step::Llama => llama::serve(&work),
        Step::Products if !work.device.is_cpu() => {
            anyhow::bail!("products are measured in the kernels of the CPU only")
        }
        Step::Products => products::serve(),
    }
}

/// Computes on `device`, which shows that its libraries and this build's kernels load.
fn probe(device: &Device) -> anyhow::Result<()> {
    let ones = Tensor::ones(4, DType::F32, device)?;
    let sum = ones.sum_all()?.to_scalar::<f32>()?;
    anyhow::ensure!(sum == 4.0, "four ones add up to {sum}");
    Ok(())
}
