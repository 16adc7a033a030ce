//! The subcommands, a file each.

mod base;
mod cache;
mod check;
mod eval;
mod export;
mod generate;
mod import;
mod library;
mod logits;
mod manual;
mod merge;
mod model;
mod routed;
mod run;
mod train;

use anyhow::Result;

use crate::args::{BaseCommand, Cli, Command, Common, FormatArg};
use crate::out::{self, Format, show};

/// Runs what was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let asked = cli.common.format;
    let format = asked.printed();
    let written = matches!(asked, FormatArg::Mttl | FormatArg::Peft);
    if written && !matches!(cli.command, Command::Export { .. }) {
        anyhow::bail!("--format mttl and peft are for `lyceum export`; here it is text or json");
    }
    let device = lyceum::device::device(&cli.common.device)?;
    configure(&cli.common)?;
    match cli.command {
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { out } => manual::pages(&out, format),
        Command::Cache { command } => cache::cache(&command, format),
        Command::Run(args) => run::run(&args, &device, format),
        Command::Pretrain { recipe, out, root } => run::pretrain(&recipe, &root, &out, &device),
        Command::Plot { reports, out } => run::plot(&reports, out.as_deref()),
        Command::Train(args) => train::train(&args, &device, format),
        Command::Merge(args) => merge::merge(&args, format),
        Command::Derive(args) => train::derive(&args, &device, format),
        Command::List(args) => library::list(&args, format),
        Command::Show { uri, name, at } => library::show_expert(&uri, at, &name, format),
        Command::History { uri, limit } => library::history(&uri, limit, format),
        Command::Copy(args) => library::copy(&args, format),
        Command::Remove {
            uri,
            names,
            restore: false,
        } => library::remove(&uri, &names, format),
        Command::Remove { uri, names, .. } => library::restore(&uri, &names, format),
        Command::Restore(args) => match args.at {
            None => library::restore(&args.uri, &args.names, format),
            Some(version) => library::restore_at(&args, version, format),
        },
        Command::Rename { uri, from, to } => library::rename(&uri, &from, &to, format),
        Command::Purge {
            uri,
            grace,
            dry_run,
        } => library::purge(&uri, grace, dry_run, format),
        Command::Cluster(args) => library::cluster(&args, format),
        Command::Import(args) => import::import(&args, format),
        Command::Export { uri, out } => export::export(&uri, &out, asked),
        Command::Check { uri, base } => check::check(&uri, &base, format),
        Command::Eval(args) => eval::eval(&args, &device, format),
        Command::Save { model, out } => model::save(&model, &out),
        Command::Base {
            command: BaseCommand::Show { dir, all },
        } => base::show(dir.as_deref(), all, format),
        Command::Generate(args) => generate::generate(&args, &device, format),
        Command::Logits {
            model,
            task_names,
            input,
            out,
        } => logits::logits((&model, &device), task_names.as_deref(), &input, &out),
    }
}

/// Applies the options that hold for the whole process.
fn configure(common: &Common) -> Result<()> {
    if let Some(threads) = common.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build_global()?;
    }
    if common.offline {
        lyceum::store::go_offline();
    }
    Ok(())
}

/// Says on stderr what is done, when people are watching.
pub(crate) fn done(format: Format, text: &str) -> Result<()> {
    match format {
        Format::Json => show(format, &serde_json::json!({ "done": text }), |_| {
            String::new()
        }),
        Format::Text => {
            out::say(text);
            Ok(())
        }
    }
}
