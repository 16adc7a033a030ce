//! The subcommands, a file each.

mod base;
mod cache;
mod check;
mod config;
mod data;
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
mod show;
mod train;

use anyhow::Result;

use candle_core::Device;
use lyceum::store::Session;

use crate::args::{BaseCommand, Cli, Command, Common, DataCommand};
use crate::log;
use crate::out::{self, Format};
use crate::project::Project;

/// The flags that every command has, in use.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The cache, the credentials and the use of the network.
    pub(crate) session: Session,
    /// The device of the base.
    pub(crate) device: Device,
    /// The format of results.
    pub(crate) format: Format,
}

impl Settings {
    fn new(common: &Common) -> Result<Self> {
        Ok(Settings {
            session: Session::from_env().with_offline(common.offline),
            device: lyceum::device::device(&common.device)?,
            format: common.format,
        })
    }

    /// The same, with the base on `device`.
    pub(crate) fn on(&self, device: Device) -> Self {
        Settings {
            device,
            ..self.clone()
        }
    }
}

/// Runs what was asked for.
pub(crate) fn run(cli: Cli, project: &Project) -> Result<()> {
    log::start(cli.common.verbose)?;
    threads(&cli.common)?;
    out::quiet(cli.common.quiet);
    let settings = &Settings::new(&cli.common)?;
    match cli.command {
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { out } => manual::pages(&out, settings.format),
        Command::Cache { command } => cache::cache(&command, settings),
        Command::Run(args) => run::run(&args, settings),
        Command::Pretrain { recipe, out, root } => run::pretrain(&recipe, &root, &out, settings),
        Command::Plot { reports, out } => run::plot(&reports, out.as_deref(), settings.format),
        Command::Train(args) => train::train(&args, settings),
        Command::Merge(args) => merge::merge(&args, settings),
        Command::Derive(args) => train::derive(&args, settings),
        Command::List(args) => library::list(&args, settings),
        Command::Show { uri, name, at } => show::show(&uri, at, &name, settings),
        Command::History { uri, limit } => library::history(&uri, limit, settings),
        Command::Copy(args) => library::copy(&args, settings),
        Command::Remove {
            uri,
            names,
            restore: false,
        } => library::remove(&uri, &names, settings),
        Command::Remove { uri, names, .. } => library::restore(&uri, &names, settings),
        Command::Restore(args) => match args.at {
            None => library::restore(&args.uri, &args.names, settings),
            Some(version) => library::restore_at(&args, version, settings),
        },
        Command::Rename { uri, from, to } => library::rename(&uri, &from, &to, settings),
        Command::Purge(args) => library::purge(&args, settings),
        Command::Cluster(args) => library::cluster(&args, settings),
        Command::Import(args) => import::import(&args, settings),
        Command::Export { uri, out, to } => export::export(&uri, &out, to, settings),
        Command::Check { uri, base } => check::check(&uri, &base, settings),
        Command::Eval(args) => eval::eval(&args, settings),
        Command::Save { model, out } => model::save(&model, &out, settings),
        Command::Base {
            command: BaseCommand::Show { dir, all },
        } => base::show(dir.as_deref(), all, settings),
        Command::Init(args) => config::init(&args, settings.format),
        Command::Config => config::config(project, settings.format),
        Command::Data {
            command: DataCommand::Show { data },
        } => data::show(data.as_deref(), settings),
        Command::Generate(args) => generate::generate(&args, settings),
        Command::Logits {
            model,
            task_names,
            input,
            out,
        } => logits::logits(&model, task_names.as_deref(), &input, &out, settings),
    }
}

/// Sets the number of threads, which is one for the whole process.
fn threads(common: &Common) -> Result<()> {
    if let Some(threads) = common.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build_global()?;
    }
    Ok(())
}
