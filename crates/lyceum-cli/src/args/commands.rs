//! The flags of the commands that have many.

use std::path::PathBuf;

use clap::Args;
use lyceum::backbone::Precision;
use lyceum::transform;

use super::model::{BaseArgs, DataArgs, MembersArgs, ModelArgs, PrecisionArg, QuantizeArg, kept};
use super::values::{at_least_one, grace, task, weight};

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The recipe
    pub(crate) recipe: PathBuf,
    /// Folder for libraries, predictions and the report
    #[arg(short, long)]
    pub(crate) out: PathBuf,
    /// Override the recipe's base: a folder, a GGUF file, hf://owner/name[@revision] or embedded
    #[arg(long)]
    pub(crate) base: Option<PathBuf>,
    /// Override the recipe's seed
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Override the recipe's precision
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,
    /// Override the recipe's precision: quantise the frozen matrices to eight bits
    #[arg(long, value_enum, conflicts_with = "precision")]
    pub(crate) quantize: Option<QuantizeArg>,
}

impl RunArgs {
    /// The storage of the frozen matrices, if it overrides the recipe's.
    pub(crate) fn kept(&self) -> Option<Precision> {
        match (self.precision, self.quantize) {
            (None, None) => None,
            (precision, quantize) => Some(kept(precision.unwrap_or(PrecisionArg::F32), quantize)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The base: a folder, a GGUF file, hf://owner/name or embedded
    #[arg(short, long)]
    pub(crate) base: Option<String>,
    /// The library
    #[arg(short, long)]
    pub(crate) library: Option<String>,
    /// The data
    #[arg(short, long)]
    pub(crate) data: Option<String>,
    /// Replace a project file that is there
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The library
    pub(crate) uri: String,
    /// Only names that match: `*` is any text, `?` any character
    #[arg(long)]
    pub(crate) name: Option<glob::Pattern>,
    /// Only experts that stand for one of these tasks, comma-separated
    #[arg(long, alias = "task", value_delimiter = ',', value_parser = task)]
    pub(crate) tasks: Vec<lyceum::Name>,
    /// Only experts of this base: its name, or the beginning of its fingerprint
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// Version of the library to read; the newest when absent
    #[arg(long)]
    pub(crate) at: Option<u64>,
    /// List the removed experts instead
    #[arg(long)]
    pub(crate) removed: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) base: BaseArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The library experts are added to
    #[arg(short, long)]
    pub(crate) library: String,
    /// One expert per task of the data; so it is when neither this, --tasks nor --clusters is given
    #[arg(long, conflicts_with = "clusters")]
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
    /// Activation recomputation: recompute the inside of blocks in the backward pass instead of
    /// storing it; less memory, more time, the same experts
    #[arg(long)]
    pub(crate) recompute: bool,
    /// Retrain existing experts whose settings, data or base differ; older versions of the library
    /// keep what is replaced
    #[arg(long)]
    pub(crate) replace: bool,
    /// Allow experts of different bases in one library
    #[arg(long)]
    pub(crate) mixed_bases: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeriveArgs {
    /// The library
    pub(crate) uri: String,
    #[arg(help = transforms())]
    pub(crate) kind: String,
    #[command(flatten)]
    pub(crate) members: MembersArgs,
    #[command(flatten)]
    pub(crate) base: BaseArgs,
    /// Accept experts trained over other weights of the base's architecture (phatgoose)
    #[arg(long)]
    pub(crate) allow_other_base: bool,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Updates per expert; 50 when absent (phatgoose)
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Peak learning rate; 1e-3 when absent (phatgoose)
    #[arg(long)]
    pub(crate) lr: Option<f64>,
    /// Share of the steps over which the rate rises; 0 when absent (phatgoose)
    #[arg(long)]
    pub(crate) warmup: Option<f64>,
    /// Examples per step; 4 when absent (phatgoose)
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Seed of the data order; 42 when absent (phatgoose)
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

/// Help for the kind of artifact, with a clause per transform.
fn transforms() -> String {
    let clause = |about: &transform::About| format!("{} ({})", about.kind, about.what);
    let clauses: Vec<String> = transform::TRANSFORMS.iter().map(clause).collect();
    clauses.join(", ")
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A library of MTTL's, a PEFT adapter, or a folder of adapters (the hub's cache too); or
    /// hf://owner/name
    pub(crate) source: PathBuf,
    /// The library they are added to
    pub(crate) destination: String,
    /// Folder or GGUF file of the base they were trained on, or hf://owner/name[@revision]: they
    /// are checked against it and record it as their base; no check when absent
    #[arg(long)]
    pub(crate) base: Option<PathBuf>,
    /// The name of a single PEFT adapter; its folder's when absent
    #[arg(long)]
    pub(crate) name: Option<lyceum::Name>,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The library
    pub(crate) uri: String,
    /// linear or cat (exact weighted sums of the updates), ties, wudi, or factor-linear (MTTL's
    /// linear: the mean of the A's and of the B's)
    #[arg(long)]
    pub(crate) method: String,
    /// Name of the merged expert
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) members: MembersArgs,
    /// EXPERT=WEIGHT of every expert merged, comma-separated; equal ones that sum to 1 when
    /// absent (linear, cat, factor-linear)
    #[arg(long, value_delimiter = ',', value_parser = weight)]
    pub(crate) weights: Vec<(lyceum::Name, f64)>,
    /// Cut the exact sum to this rank and say what is lost; whatever rank the sum needs when
    /// absent (linear)
    #[arg(long)]
    pub(crate) rank: Option<usize>,
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

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Multiple choice instead: `arc-easy`, or a JSON file (lines or a list) of query, choices,
    /// gold
    #[arg(
        long,
        alias = "task",
        conflicts_with_all = ["data", "max_input", "metric", "split", "tasks", "max_new"]
    )]
    pub(crate) eval_task: Option<PathBuf>,
    /// Metric of the generated text
    #[arg(long, default_value = "rouge-l")]
    pub(crate) metric: String,
    /// Split of the rows
    #[arg(long, default_value = "test")]
    pub(crate) split: String,
    /// Only these tasks of the data, comma-separated
    #[arg(long, value_delimiter = ',', value_parser = task)]
    pub(crate) tasks: Vec<lyceum::Name>,
    /// Most new tokens
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub(crate) max_new: usize,
    /// Evaluate only the first N examples of each task
    #[arg(short = 'n', long, value_parser = at_least_one)]
    pub(crate) limit: Option<usize>,
    /// Begin every text with the beginning-of-text token or not; as the tokenizer says when absent
    #[arg(long, value_name = "true|false")]
    pub(crate) add_bos: Option<bool>,
    /// Write the report, charts and every example's result to this folder, replacing an earlier
    /// evaluation
    #[arg(short, long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Source library
    pub(crate) source: String,
    /// Destination library; created if absent
    pub(crate) destination: String,
    /// Only these experts
    pub(crate) names: Vec<String>,
    /// Replace experts of the same name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Version of the library to read; the newest when absent
    #[arg(long)]
    pub(crate) at: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// The library
    pub(crate) uri: String,
    /// Retention: keep versions and removed experts newer than this (30m, 12h, 14d); must exceed
    /// your longest read
    #[arg(long, default_value = "14d", value_parser = grace)]
    pub(crate) grace: std::time::Duration,
    /// Only print what would be deleted
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The library
    pub(crate) uri: String,
    /// The experts
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Version of the library to restore from; when absent, removed experts are restored
    #[arg(long)]
    pub(crate) at: Option<u64>,
    /// Replace experts that have the same names now
    #[arg(long, requires = "at")]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// The library
    pub(crate) uri: String,
    /// Number of clusters
    #[arg(long, default_value_t = 2)]
    pub(crate) k: usize,
    /// Share of the smallest weights dropped before comparing
    #[arg(long, default_value_t = 0.2)]
    pub(crate) sparsity: f64,
    /// Seed of k-means
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// File to write the clusters to
    #[arg(long, default_value = "mbc_clusters.json")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) members: MembersArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Text to continue
    #[arg(long)]
    pub(crate) prompt: String,
    /// Write the prompt as a conversation, by the base's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// System message of the conversation
    #[arg(long, requires = "chat")]
    pub(crate) system: Option<String>,
    /// Which of the base's chat templates, or a file with one; `default` when absent
    #[arg(long, requires = "chat", value_name = "NAME|FILE")]
    pub(crate) chat_template: Option<String>,
    /// The task of the prompt, for the oracle
    #[arg(long, alias = "task")]
    pub(crate) task_name: Option<String>,
    /// Most new tokens; fewer where the base's positions end
    #[arg(short = 'n', long, default_value_t = 64)]
    pub(crate) max_new: usize,
    /// Begin the prompt with the beginning-of-text token or not; as the tokenizer says when
    /// absent (a conversation's template writes its own)
    #[arg(long, value_name = "true|false", conflicts_with = "chat")]
    pub(crate) add_bos: Option<bool>,
}
