//! The command line, as data.

mod commands;
mod help;
mod model;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use commands::{
    ClusterArgs, CopyArgs, DeriveArgs, EvalArgs, GenerateArgs, ImportArgs, InitArgs, ListArgs,
    MergeArgs, PurgeArgs, RestoreArgs, RunArgs, TrainArgs,
};
pub(crate) use help::grouped;
pub(crate) use model::{BaseArgs, MembersArgs, ModelArgs};
pub(crate) use values::ExportTo;
use values::bytes;

use crate::out::Format;

/// Train, keep, cluster, route between and evaluate LoRA experts.
#[derive(Debug, Parser)]
#[command(name = "lyceum", version, max_term_width = 100, after_long_help = help::at_length())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Format of results: text or json
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        hide_possible_values = true
    )]
    pub(crate) format: Format,
    /// Print only results and errors, no messages and no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Threads; all cores when absent
    ///
    /// Results do not depend on it.
    #[arg(short, long, global = true)]
    pub(crate) threads: Option<usize>,
    /// Use no network: remote places are read from the cache
    ///
    /// HF_HUB_OFFLINE=1 does so for hf:// alone.
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Show what the library does on stderr; -vv all of it
    ///
    /// Commits, requests, cache hits, training steps. LYCEUM_LOG or RUST_LOG (lyceum=debug) choose
    /// levels.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Device of the base: cpu, cuda, cuda:N or metal
    ///
    /// A GPU needs a build with the feature `cuda` or `metal`.
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
                            'qa-*' --tasks boolq\n  lyceum list experts --at 12"
    )]
    List(ListArgs),
    /// Show one expert
    #[command(after_help = "Example: lyceum show experts boolq")]
    Show {
        /// The library
        uri: String,
        /// The expert
        name: String,
        /// Version of the library to read; the newest when absent
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
    /// Copy experts to another library, with their artifacts; resumes an interrupted copy
    #[command(
        after_help = "Examples:\n  lyceum copy experts experts-copy\n  lyceum copy experts \
                            experts-copy boolq --at 12 --replace"
    )]
    Copy(CopyArgs),
    /// Import experts made by MTTL or PEFT, without executing anything
    #[command(
        after_help = "Examples:\n  lyceum import mttl-library experts --base gpt-neo-125m\n  lyceum \
                            import my-adapter experts --base gpt-neo-125m --name qa\nOf many \
                            adapters those that cannot be taken are left out and listed (exit code 1)"
    )]
    Import(ImportArgs),
    /// Write a library for other tools
    #[command(
        after_help = "Examples:\n  lyceum export experts mttl-library --to mttl\n  lyceum export \
                            experts adapters --to peft\nFormats: mttl (one of MTTL's \
                            libraries), peft (a folder per expert)"
    )]
    Export {
        /// The library
        uri: String,
        /// The folder, which must be empty or absent
        out: PathBuf,
        /// Format to write
        #[arg(long, value_enum)]
        to: ExportTo,
    },
    /// Verify a library: read every object from the store, open it, and list what is wrong (exit
    /// code 1 if anything is)
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
        /// Restore them instead, like `lyceum restore`
        #[arg(long)]
        restore: bool,
    },
    /// Restore removed experts, or the state of experts in an older version
    #[command(
        after_help = "Examples:\n  lyceum restore experts boolq\n  lyceum restore experts boolq \
                            --at 12 --replace"
    )]
    Restore(RestoreArgs),
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
    /// Delete removed experts and old versions, with the files that only they need
    #[command(after_help = "Example: lyceum purge experts --grace 14d --dry-run")]
    Purge(PurgeArgs),
    /// Cluster experts by their weights (MBC)
    #[command(after_help = "Example: lyceum cluster experts --k 2 --sparsity 0.2")]
    Cluster(ClusterArgs),
    /// Merge experts into one and add it to a library
    #[command(
        after_help = "Examples:\n  lyceum merge experts --method linear --name all\n  lyceum merge \
                            experts --method linear --experts boolq,squad --weights \
                            boolq=1,squad=-0.5 --rank 8 --name mix\n  lyceum merge experts --method \
                            ties --density 0.2 --name ties --library merged\nMethods:\n  \
                            linear         exact weighted sum of the updates; any ranks, scales \
                            and layers\n  cat            the same by concatenation: the ranks add \
                            up\n  ties           keep the largest values, elect a sign each, \
                            average those that agree\n  wudi           least interference with \
                            every expert, by gradient descent\n  factor-linear  mean of the A's \
                            and of the B's apart (MTTL's linear): quadratic in the weights"
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
                            lyceum eval --eval-task arc-easy --limit 200\n  lyceum eval \
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
        /// JSON list of the b rows' task names, for the oracle
        #[arg(long, alias = "tasks")]
        task_names: Option<PathBuf>,
        /// Token ids
        #[arg(long)]
        input: PathBuf,
        /// File to write the logits to
        #[arg(long)]
        out: PathBuf,
    },
    /// Continue a prompt, greedily
    #[command(
        after_help = "Examples:\n  lyceum generate --prompt 'Question: why is the sky blue?'\n  \
                            lyceum generate --base llama --chat --system 'Be brief.' --prompt 'Hi'"
    )]
    Generate(GenerateArgs),
    /// Show or limit the cache of remote files on this machine
    #[command(
        after_help = "Examples:\n  lyceum cache show\n  lyceum cache limit 50G\n  lyceum \
                            cache clear"
    )]
    Cache {
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Describe a base
    #[command(after_help = "Example: lyceum base show gpt-neo-125m")]
    Base {
        #[command(subcommand)]
        command: BaseCommand,
    },
    /// Write a project file, lyceum.toml: defaults of the commands below this folder
    #[command(after_help = "Example: lyceum init --library experts --base gpt-neo-125m")]
    Init(InitArgs),
    /// Show the settings in force and where each comes from
    #[command(after_help = "Example: lyceum config --format json")]
    Config,
    /// Describe a data set: tasks, rows per split, lengths
    #[command(after_help = "Example: lyceum data show rows.jsonl")]
    Data {
        #[command(subcommand)]
        command: DataCommand,
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
        /// Folder to write to; the JSON's folder when absent
        #[arg(short, long)]
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
    /// Print the completions of a shell
    #[command(after_help = "Examples:\n  lyceum completions bash > \
                            ~/.local/share/bash-completion/completions/lyceum\n  lyceum \
                            completions zsh > ~/.zfunc/_lyceum\n  lyceum completions fish > \
                            ~/.config/fish/completions/lyceum.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one per command
    #[command(after_help = "Example: lyceum man --out ~/.local/share/man/man1")]
    Man {
        /// The folder they are written to
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show the cache's folder, size and limit
    #[command(after_help = "Example: lyceum cache show --format json")]
    Show,
    /// Set the cache size limit; least recently used files are evicted first
    #[command(after_help = "Example: lyceum cache limit 50G")]
    Limit {
        /// Size with its unit: 500M, 50G, 1T
        #[arg(value_parser = bytes)]
        bytes: u64,
    },
    /// Delete all cached files
    #[command(after_help = "Example: lyceum cache clear")]
    Clear,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Tasks, rows per split, lengths of inputs and targets in characters
    #[command(
        after_help = "Examples:\n  lyceum data show\n  lyceum data show hf://datasets/owner/name --format json"
    )]
    Show {
        /// Task file or folder (JSON, parquet, Arrow), or hf://datasets/owner/name; the ten tasks
        /// shipped when absent
        data: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// Family, sizes, the linears an expert can adapt, fingerprint
    #[command(after_help = "Example: lyceum base show gpt-neo-125m --format json")]
    Show {
        /// Folder or GGUF file of the base, or hf://owner/name[@revision]; the one shipped when
        /// absent
        dir: Option<PathBuf>,
        /// List every linear on its own line instead of grouping the blocks
        #[arg(long)]
        all: bool,
    },
}
