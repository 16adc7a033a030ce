//! The command line, as data.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lyceum::backbone::Precision;
use lyceum::mix::Mixing;

use crate::out::Format;

/// Train, keep, cluster, route between and evaluate LoRA experts.
#[derive(Debug, Parser)]
#[command(name = "lyceum", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print results as text or JSON
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) format: Format,
    /// Threads; all cores when absent. Results do not depend on it
    #[arg(long, global = true)]
    pub(crate) threads: Option<usize>,
    /// Where to compute; only `cpu` in this version
    #[arg(long, global = true, default_value = "cpu")]
    pub(crate) device: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole experiment and write its report
    #[command(after_help = "Example: lyceum run recipes/tutorial.toml --out out")]
    Run(RunArgs),
    /// Train LoRA experts, all in one pass, and add them to a library
    #[command(
        after_help = "Examples:\n  lyceum train --each-task --library experts\n  lyceum train \
                            --clusters mbc_clusters.json --library experts-mbc"
    )]
    Train(Box<TrainArgs>),
    /// List the experts of a library
    #[command(after_help = "Example: lyceum list experts --format json")]
    List {
        /// The library
        uri: String,
    },
    /// Show one expert
    #[command(after_help = "Example: lyceum show experts boolq")]
    Show {
        /// The library
        uri: String,
        /// The expert
        name: String,
    },
    /// Copy a library, its artifacts with it
    #[command(after_help = "Example: lyceum copy experts experts-copy")]
    Copy {
        /// From
        source: String,
        /// To
        destination: String,
    },
    /// Remove an expert (it can be restored)
    #[command(after_help = "Example: lyceum remove experts boolq")]
    Remove {
        /// The library
        uri: String,
        /// The expert
        name: String,
        /// Bring it back instead
        #[arg(long)]
        restore: bool,
    },
    /// Cluster experts by their weights (MBC)
    #[command(after_help = "Example: lyceum cluster experts --k 2 --sparsity 0.2")]
    Cluster {
        /// The library
        uri: String,
        /// Number of clusters
        #[arg(long, default_value_t = 2)]
        k: usize,
        /// Share of the smallest weights dropped before comparing
        #[arg(long, default_value_t = 0.2)]
        sparsity: f64,
        /// Seed of k-means
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Where the clusters go
        #[arg(long, default_value = "mbc_clusters.json")]
        out: PathBuf,
    },
    /// Derive what a router needs: `arrow` prototypes or `phatgoose` gates
    #[command(
        after_help = "Examples:\n  lyceum derive experts arrow\n  lyceum derive experts \
                            phatgoose --steps 50 --lr 1e-3"
    )]
    Derive(DeriveArgs),
    /// Evaluate a router over a library, or a saved model
    #[command(
        after_help = "Examples:\n  lyceum eval --router arrow --top-k 2 --library experts\n  \
                            lyceum eval --task arc-easy --router base --limit 200\n  lyceum eval \
                            --model routed --out eval-routed"
    )]
    Eval(EvalArgs),
    /// Save a routed model as a folder
    #[command(
        after_help = "Example: lyceum save --router arrow --top-k 2 --library experts routed"
    )]
    Save {
        #[command(flatten)]
        model: ModelArgs,
        /// The folder
        out: PathBuf,
    },
    /// Write the logits of given token ids, to compare with any other implementation
    #[command(
        after_help = "Example: lyceum logits --input in.safetensors --out out.safetensors\n\
                            Input: input_ids and attention_mask [b, t] i64; output: logits \
                            [b, t, v] f32, zeros at masked positions"
    )]
    Logits {
        #[command(flatten)]
        model: ModelArgs,
        /// JSON list of the b task names, for the oracle
        #[arg(long)]
        tasks: Option<PathBuf>,
        /// Token ids
        #[arg(long)]
        input: PathBuf,
        /// Where the logits go
        #[arg(long)]
        out: PathBuf,
    },
    /// Continue a prompt, greedily
    #[command(
        after_help = "Examples:\n  lyceum generate --prompt 'Question: why is the sky blue?'\n  \
                            lyceum generate --base llama --chat --system 'Be brief.' --prompt 'Hi'"
    )]
    Generate {
        #[command(flatten)]
        model: ModelArgs,
        /// What to continue
        #[arg(long)]
        prompt: String,
        /// Write the prompt as a conversation, by the base's chat template
        #[arg(long)]
        chat: bool,
        /// What the conversation's system message says
        #[arg(long, requires = "chat")]
        system: Option<String>,
        /// The task, for the oracle
        #[arg(long)]
        task: Option<String>,
        /// Most new tokens
        #[arg(long, default_value_t = 64)]
        max_new: usize,
    },
    /// Look at a base
    #[command(after_help = "Example: lyceum base show gpt-neo-125m")]
    Base {
        #[command(subcommand)]
        command: BaseCommand,
    },
    /// Draw a report again from its JSON
    #[command(after_help = "Example: lyceum plot out/report.json")]
    Plot {
        /// `report.json`
        report: PathBuf,
        /// Where it goes; beside the JSON when absent
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Pre-train a base from a recipe; continues where it stopped
    #[command(after_help = "Example: lyceum pretrain recipes/base.toml --out base --root data")]
    Pretrain {
        /// The recipe
        recipe: PathBuf,
        /// The folder that becomes the base
        #[arg(long)]
        out: PathBuf,
        /// The folder the recipe's paths begin at
        #[arg(long, default_value = ".")]
        root: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// Family, sizes, the linears an expert can adapt, fingerprint
    #[command(after_help = "Example: lyceum base show gpt-neo-125m --format json")]
    Show {
        /// Folder of the base; the one shipped when absent
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The recipe
    pub(crate) recipe: PathBuf,
    /// Where libraries, predictions and the report go
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Replaces the recipe's seed
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Replaces the recipe's precision
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,
}

/// The base and its arithmetic.
#[derive(Debug, Args)]
pub(crate) struct BaseArgs {
    /// Folder of the base; the one shipped when absent
    #[arg(long)]
    pub(crate) base: Option<PathBuf>,
    /// Arithmetic of the frozen matrices
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) precision: PrecisionArg,
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

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Task file or folder (JSONL, parquet); the ten tasks shipped when absent
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Longest input in tokens
    #[arg(long, default_value_t = 1024)]
    pub(crate) max_input: usize,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) base: BaseArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The library experts are added to
    #[arg(long)]
    pub(crate) library: String,
    /// One expert per task of the data
    #[arg(long, conflicts_with = "clusters", required_unless_present_any = ["clusters", "tasks"])]
    pub(crate) each_task: bool,
    /// One expert per cluster of this file
    #[arg(long)]
    pub(crate) clusters: Option<PathBuf>,
    /// Only these tasks, comma-separated
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Rank of the adapters
    #[arg(long, default_value_t = 4)]
    pub(crate) rank: usize,
    /// Numerator of their scale
    #[arg(long, default_value_t = 1.0)]
    pub(crate) alpha: f64,
    /// Layers to adapt, comma-separated
    #[arg(long, default_value = "q_proj,k_proj,v_proj", value_delimiter = ',')]
    pub(crate) targets: Vec<String>,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-2)]
    pub(crate) lr: f64,
    /// Passes over the data
    #[arg(long, default_value_t = 5)]
    pub(crate) epochs: usize,
    /// Examples per step
    #[arg(long, default_value_t = 16)]
    pub(crate) batch: usize,
    /// Seed of initialisation and data order
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DeriveArgs {
    /// The library
    pub(crate) uri: String,
    /// `arrow` or `phatgoose`
    pub(crate) kind: String,
    #[command(flatten)]
    pub(crate) base: BaseArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Updates per expert (phatgoose)
    #[arg(long, default_value_t = 50)]
    pub(crate) steps: usize,
    /// Peak learning rate (phatgoose)
    #[arg(long, default_value_t = 1e-3)]
    pub(crate) lr: f64,
    /// Share of the steps over which the rate rises (phatgoose)
    #[arg(long, default_value_t = 0.0)]
    pub(crate) warmup: f64,
    /// Examples per step (phatgoose)
    #[arg(long, default_value_t = 4)]
    pub(crate) batch: usize,
    /// Seed of the data order (phatgoose)
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Multiple choice instead: `arc-easy`, or a JSONL file of query, choices, gold
    #[arg(long)]
    pub(crate) task: Option<PathBuf>,
    /// What is measured on generated text
    #[arg(long, default_value = "rouge-l")]
    pub(crate) metric: String,
    /// Which rows
    #[arg(long, default_value = "test")]
    pub(crate) split: String,
    /// Only these tasks, comma-separated
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Most new tokens
    #[arg(long, default_value_t = 128)]
    pub(crate) max_new: usize,
    /// Only the first so many examples
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Write report, charts and every example's own result here
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

/// A number of experts, or all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TopK(pub(crate) Option<usize>);

fn top_k(text: &str) -> Result<TopK, String> {
    match text {
        "all" | "-1" => Ok(TopK(None)),
        number => match number.parse() {
            Ok(k) if k > 0 => Ok(TopK(Some(k))),
            _ => Err("give a number from 1, or `all`".into()),
        },
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArg {
    F32,
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        }
    }
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
