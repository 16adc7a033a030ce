//! Flags that several commands share: the base, the data, a routed model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lyceum::backbone::Precision;
use lyceum::library::Members;
use lyceum::mix::Mixing;
use lyceum::route;

use super::values::{TopK, at_least_one, top_k};

/// The base and its arithmetic.
#[derive(Debug, Args)]
pub(crate) struct BaseArgs {
    /// Folder or GGUF file of the base, or hf://owner/name[@revision]; the one shipped when absent
    #[arg(short, long)]
    pub(crate) base: Option<PathBuf>,
    /// Arithmetic of the frozen matrices
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: PrecisionArg,
    /// Keep the frozen matrices in eight bits (arithmetic in f32); quantised ones stay as they are
    #[arg(long, value_enum, conflicts_with = "precision")]
    pub(crate) quantize: Option<QuantizeArg>,
}

impl BaseArgs {
    /// The storage of the frozen matrices.
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
    #[arg(long, conflicts_with_all = ["library", "experts", "include", "router", "top_k", "router_temperature", "temperature", "mixing"])]
    pub(crate) model: Option<PathBuf>,
    /// The library
    #[arg(short, long)]
    pub(crate) library: Option<String>,
    #[command(flatten)]
    pub(crate) members: MembersArgs,
    #[arg(long, help = routers(), long_help = routers_at_length())]
    pub(crate) router: Option<String>,
    #[arg(
        short = 'k',
        long,
        help = setting("top_k", "Experts per token, or `all`; all when absent"),
        value_parser = top_k,
        allow_negative_numbers = true
    )]
    pub(crate) top_k: Option<TopK>,
    #[arg(
        long,
        help = setting("temperature", "Divides the router's logits"),
        allow_negative_numbers = true
    )]
    pub(crate) router_temperature: Option<f64>,
    /// An older spelling of the same; of no use where text is sampled
    #[arg(
        long,
        hide = true,
        allow_negative_numbers = true,
        conflicts_with = "router_temperature"
    )]
    pub(crate) temperature: Option<f64>,
    /// Accept experts trained over other weights of the base's architecture: over a quantised base,
    /// say, and used over the full-precision one
    #[arg(long)]
    pub(crate) allow_other_base: bool,
    /// Mixing of the experts' outputs: outputs (exact; when absent) or factors (MTTL's default)
    #[arg(long, value_enum)]
    pub(crate) mixing: Option<MixingArg>,
}

/// Help for `--router`: the names of all routers.
fn routers() -> String {
    let all = route::all();
    let names: Vec<&str> = all.iter().map(|about| about.name).collect();
    let names = names.join(", ");
    format!("{names}; the base alone when neither this nor a library is given")
}

/// Long help for `--router`, with a line per router.
fn routers_at_length() -> String {
    let line = |about: &&route::About| format!("  {:<10} {}\n", about.name, about.what);
    let lines: String = route::all().iter().map(line).collect();
    format!("The router; the base alone when neither this nor a library is given:\n{lines}")
}

/// Help for a setting of routers, with the names of those that have it.
fn setting(name: &str, what: &str) -> String {
    format!("{what} ({})", route::with_setting(name, ", "))
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
    /// Task file or folder (JSON, parquet, Arrow), or hf://datasets/owner/name; the ten tasks
    /// shipped when absent
    #[arg(short, long)]
    pub(crate) data: Option<PathBuf>,
    /// Longest input in tokens
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
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

impl From<MixingArg> for Mixing {
    fn from(arg: MixingArg) -> Self {
        match arg {
            MixingArg::Outputs => Mixing::Outputs,
            MixingArg::Factors => Mixing::Factors,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use lyceum::route::{About, Fixed, Role};

    #[test]
    fn a_registered_router_is_in_the_help() {
        static LAST: About = About {
            name: "last",
            what: "the last expert alone",
            paper: "-",
            role: Role::Fixed,
            artifact: None,
            settings: &["top_k"],
            temperature: None,
            build: Some(|inputs| {
                let n = inputs.experts.len();
                let weights: Vec<f32> = (1..=n).map(|i| f32::from(i == n)).collect();
                Ok(std::sync::Arc::new(Fixed::new(&weights)))
            }),
        };
        lyceum::route::register(&LAST).unwrap();
        let mut command = crate::args::Cli::command();
        let eval = command.find_subcommand_mut("eval").unwrap();
        let help = eval.render_long_help().to_string();
        assert!(help.contains("the last expert alone"), "{help}");
        assert!(help.contains("arrow, phatgoose, last"), "{help}");
    }
}
