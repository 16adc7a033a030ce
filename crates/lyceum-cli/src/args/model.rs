//! Flags that several commands share: the base, the data, a routed model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lyceum::backbone::Precision;
use lyceum::library::Members;
use lyceum::mix::Mixing;

use super::values::{TopK, top_k};

/// The base and its arithmetic.
#[derive(Debug, Args)]
pub(crate) struct BaseArgs {
    /// Folder or GGUF file of the base, or hf://owner/name[@revision]; the one shipped when absent
    #[arg(long)]
    pub(crate) base: Option<PathBuf>,
    /// Arithmetic of the frozen matrices
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: PrecisionArg,
    /// Keep the frozen matrices in eight bits (arithmetic in f32); quantised ones stay as they are
    #[arg(long, value_enum, conflicts_with = "precision")]
    pub(crate) quantize: Option<QuantizeArg>,
}

impl BaseArgs {
    /// How the frozen matrices are kept and multiplied.
    pub(crate) fn kept(&self) -> Precision {
        kept(self.precision, self.quantize)
    }
}

pub(super) fn kept(precision: PrecisionArg, quantize: Option<QuantizeArg>) -> Precision {
    match (quantize, precision) {
        (Some(QuantizeArg::Int8), _) => Precision::Int8,
        (None, PrecisionArg::F32) => Precision::F32,
        (None, PrecisionArg::Bf16) => Precision::Bf16,
    }
}

/// A base with a router over a library.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    #[command(flatten)]
    pub(crate) base: BaseArgs,
    /// A saved model, instead of a library and a router
    #[arg(long, conflicts_with_all = ["library", "router"])]
    pub(crate) model: Option<PathBuf>,
    /// The library
    #[arg(long)]
    pub(crate) library: Option<String>,
    #[command(flatten)]
    pub(crate) members: MembersArgs,
    /// base, oracle, uniform, arrow or phatgoose
    #[arg(long, default_value = "base")]
    pub(crate) router: String,
    /// Experts per token, or `all`
    #[arg(long, default_value = "all", value_parser = top_k)]
    pub(crate) top_k: TopK,
    /// Divides the router's logits
    #[arg(long)]
    pub(crate) temperature: Option<f64>,
    /// How outputs are combined: outputs (exact) or factors (MTTL's default)
    #[arg(long, value_enum, default_value = "outputs")]
    pub(crate) mixing: MixingArg,
}

/// Which experts of a library count.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    /// Only these experts, comma-separated; all that were trained or imported when absent
    #[arg(long, value_delimiter = ',')]
    pub(crate) experts: Vec<String>,
    /// Count merged experts too
    #[arg(long, value_enum, conflicts_with = "experts")]
    pub(crate) include: Option<IncludeArg>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum IncludeArg {
    Merged,
}

impl MembersArgs {
    /// The experts that count.
    pub(crate) fn which(&self) -> lyceum::Result<Members> {
        match (self.experts.as_slice(), self.include) {
            ([], None) => Ok(Members::Trained),
            ([], Some(IncludeArg::Merged)) => Ok(Members::All),
            (names, _) => {
                let names = names.iter().map(|name| lyceum::Name::new(name.trim()));
                Ok(Members::Named(names.collect::<lyceum::Result<_>>()?))
            }
        }
    }

    /// True if nothing was said.
    pub(crate) fn is_default(&self) -> bool {
        self.experts.is_empty() && self.include.is_none()
    }
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Task file or folder (JSONL, parquet), or hf://datasets/owner/name; the ten tasks shipped
    /// when absent
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Longest input in tokens
    #[arg(long, default_value_t = 1024)]
    pub(crate) max_input: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArg {
    F32,
    Bf16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantizeArg {
    Int8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MixingArg {
    Outputs,
    Factors,
}

impl std::fmt::Display for MixingArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            MixingArg::Outputs => "outputs",
            MixingArg::Factors => "factors",
        })
    }
}

impl From<MixingArg> for Mixing {
    fn from(arg: MixingArg) -> Self {
        match arg {
            MixingArg::Outputs => Mixing::Outputs,
            MixingArg::Factors => Mixing::Factors,
        }
    }
}
