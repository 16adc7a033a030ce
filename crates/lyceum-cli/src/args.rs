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
    pub(crate) format: FormatArg,
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
    #[command(
        after_help = "Examples:\n  lyceum list experts --format json\n  lyceum list experts --name \
                            'qa-*' --task boolq\n  lyceum list experts --at 12"
    )]
    List(ListArgs),
    /// Show one expert
    #[command(after_help = "Example: lyceum show experts boolq")]
    Show {
        /// The library
        uri: String,
        /// The expert
        name: String,
        /// As it was in this version
        #[arg(long)]
        at: Option<u64>,
    },
    /// List the versions of a library, newest first
    #[command(after_help = "Example: lyceum history experts --limit 5")]
    History {
        /// The library
        uri: String,
        /// Most versions listed
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Copy experts to another library, their artifacts with them; goes on where it was stopped
    #[command(
        after_help = "Examples:\n  lyceum copy experts experts-copy\n  lyceum copy experts \
                            experts-copy boolq --at 12 --replace"
    )]
    Copy {
        /// From
        source: String,
        /// To; made if there is none
        destination: String,
        /// Only these experts
        names: Vec<String>,
        /// Let them replace others of the same name
        #[arg(long)]
        replace: bool,
        /// As they were in this version
        #[arg(long)]
        at: Option<u64>,
    },
    /// Import experts made by MTTL or PEFT, without executing anything
    #[command(
        after_help = "Examples:\n  lyceum import mttl-library experts --base gpt-neo-125m\n  lyceum \
                            import my-adapter experts"
    )]
    Import {
        /// A library of MTTL's, a PEFT adapter, or a folder of adapters (the hub's cache too)
        source: PathBuf,
        /// The library they are added to
        destination: String,
        #[command(flatten)]
        base: BaseArgs,
    },
    /// Write a library for other tools
    #[command(
        after_help = "Examples:\n  lyceum export experts mttl-library --format mttl\n  lyceum export \
                            experts adapters --format peft\nFormats: mttl (one of MTTL's \
                            libraries), peft (a folder per expert)"
    )]
    Export {
        /// The library
        uri: String,
        /// The folder, which must be empty or absent
        out: PathBuf,
    },
    /// Open everything in a library and list what is wrong (exit code 1 if anything is)
    #[command(after_help = "Example: lyceum check experts --base gpt-neo-125m")]
    Check {
        /// The library
        uri: String,
        #[command(flatten)]
        base: BaseArgs,
    },
    /// Remove experts (they can be restored until they are purged)
    #[command(after_help = "Example: lyceum remove experts boolq")]
    Remove {
        /// The library
        uri: String,
        /// The experts
        #[arg(required = true)]
        names: Vec<String>,
        /// Bring them back instead, as `lyceum restore`
        #[arg(long)]
        restore: bool,
    },
    /// Bring back removed experts
    #[command(after_help = "Example: lyceum restore experts boolq")]
    Restore {
        /// The library
        uri: String,
        /// The experts
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Rename an expert, its artifacts with it
    #[command(after_help = "Example: lyceum rename experts boolq boolq-v1")]
    Rename {
        /// The library
        uri: String,
        /// Its name
        from: String,
        /// Its new name
        to: String,
    },
    /// Give up removed experts and old versions, and delete what only they needed
    #[command(after_help = "Example: lyceum purge experts --grace 14d --dry-run")]
    Purge {
        /// The library
        uri: String,
        /// Keep what was listed less than so long ago: 30m, 12h, 14d. Must exceed the longest
        /// time anybody reads one version
        #[arg(long, default_value = "14d", value_parser = grace)]
        grace: std::time::Duration,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
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
    /// Merge experts into one and add it to a library
    #[command(
        after_help = "Examples:\n  lyceum merge experts --method cat --name all\n  lyceum merge \
                            experts --method ties --density 0.2 --name ties --library merged\n  \
                            lyceum merge experts --method linear --experts boolq,squad --weights \
                            boolq=0.7,squad=0.3 --name mix\nMethods:\n  linear  weighted mean of \
                            the A's and of the B's (as MTTL)\n  ties    keep the largest values, \
                            elect a sign each, average those that agree\n  wudi    least \
                            interference with every expert, by gradient descent\n  cat     exact \
                            weighted sum of the outputs; any ranks, scales and layers"
    )]
    Merge(MergeArgs),
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
    /// Draw a report again from its JSON, or several seeds' reports as their mean
    #[command(
        after_help = "Example: lyceum plot out/report.json\n         lyceum plot out-1/report.json out-2/report.json --out mean"
    )]
    Plot {
        /// `report.json`; several of one recipe under different seeds give their mean, with
        /// standard errors between the seeds
        #[arg(required = true, value_name = "REPORT")]
        reports: Vec<PathBuf>,
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
        /// Folder or GGUF file of the base; the one shipped when absent
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
    /// Replaces the recipe's precision: frozen matrices in eight bits
    #[arg(long, value_enum, conflicts_with = "precision")]
    pub(crate) quantize: Option<QuantizeArg>,
}

impl RunArgs {
    /// How the frozen matrices are kept and multiplied, if not as the recipe says.
    pub(crate) fn kept(&self) -> Option<Precision> {
        match (self.precision, self.quantize) {
            (None, None) => None,
            (precision, quantize) => Some(kept(precision.unwrap_or(PrecisionArg::F32), quantize)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The library
    pub(crate) uri: String,
    /// Only names that match: `*` is any text, `?` any character
    #[arg(long)]
    pub(crate) name: Option<glob::Pattern>,
    /// Only experts that stand for this task
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Only experts of this base: its name, or the beginning of its fingerprint
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// As it was in this version
    #[arg(long)]
    pub(crate) at: Option<u64>,
    /// The removed experts instead
    #[arg(long)]
    pub(crate) removed: bool,
}

/// The base and its arithmetic.
#[derive(Debug, Args)]
pub(crate) struct BaseArgs {
    /// Folder or GGUF file of the base; the one shipped when absent
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

fn kept(precision: PrecisionArg, quantize: Option<QuantizeArg>) -> Precision {
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
    /// Compute what happens inside blocks again instead of keeping it: less memory, more time,
    /// the same experts
    #[arg(long)]
    pub(crate) recompute: bool,
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
pub(crate) struct MergeArgs {
    /// The library
    pub(crate) uri: String,
    /// linear, ties, wudi or cat
    #[arg(long)]
    pub(crate) method: String,
    /// Name of the merged expert
    #[arg(long)]
    pub(crate) name: String,
    /// Only these experts, comma-separated; all of the library when absent
    #[arg(long, value_delimiter = ',')]
    pub(crate) experts: Vec<String>,
    /// EXPERT=WEIGHT of every expert merged, comma-separated; equal ones that sum to 1 when
    /// absent (linear, cat)
    #[arg(long, value_delimiter = ',', value_parser = weight)]
    pub(crate) weights: Vec<(lyceum::Name, f64)>,
    /// Share of each expert's values that is kept, the largest; 0.2 when absent (ties)
    #[arg(long)]
    pub(crate) density: Option<f64>,
    /// Most updates; 300 when absent (wudi)
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Learning rate; 1e-5 when absent (wudi)
    #[arg(long)]
    pub(crate) lr: Option<f64>,
    /// The library the merged expert is added to; the same one when absent
    #[arg(long)]
    pub(crate) library: Option<String>,
    /// Replace an expert of that name
    #[arg(long)]
    pub(crate) replace: bool,
}

fn weight(text: &str) -> Result<(lyceum::Name, f64), String> {
    let (name, weight) = text.rsplit_once('=').ok_or("write EXPERT=WEIGHT")?;
    let weight = weight
        .parse()
        .map_err(|_| format!("`{weight}` is not a number"))?;
    Ok((lyceum::Name::new(name).map_err(|e| e.to_string())?, weight))
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

fn grace(text: &str) -> Result<std::time::Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let unit = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    let seconds = unit.ok_or("give a time like 30m, 12h or 14d")?;
    Ok(std::time::Duration::from_secs(seconds))
}

fn top_k(text: &str) -> Result<TopK, String> {
    match text {
        "all" | "-1" => Ok(TopK(None)),
        number => match number.parse() {
            Ok(k) if k > 0 => Ok(TopK(Some(k))),
            _ => Err("give a number from 1, or `all`".into()),
        },
    }
}

/// How results are printed, or, for `export`, whose format a library is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// For people
    Text,
    /// For machines
    Json,
    /// `export` only: a library of MTTL's
    #[value(hide = true)]
    Mttl,
    /// `export` only: a PEFT folder per expert
    #[value(hide = true)]
    Peft,
}

impl FormatArg {
    /// How results are printed.
    pub(crate) fn printed(self) -> Format {
        match self {
            FormatArg::Json => Format::Json,
            _ => Format::Text,
        }
    }
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
