//! The subcommands, a file each.

mod base;
mod eval;
mod library;
mod logits;
mod model;
mod run;
mod train;

use anyhow::Result;

use crate::args::{BaseCommand, Cli, Command};
use crate::out::{self, Format, show};

/// Runs what was asked for.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let format = cli.common.format;
    if cli.common.device != "cpu" {
        anyhow::bail!(
            "device `{}` is not supported in this version; use cpu",
            cli.common.device
        );
    }
    if let Some(threads) = cli.common.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .build_global()?;
    }
    match cli.command {
        Command::Run(args) => run::run(&args, format),
        Command::Pretrain { recipe, out, root } => run::pretrain(&recipe, &root, &out),
        Command::Plot { report, out } => run::plot(&report, out.as_deref()),
        Command::Train(args) => train::train(&args, format),
        Command::Derive(args) => train::derive(&args, format),
        Command::List { uri } => library::list(&uri, format),
        Command::Show { uri, name } => library::show_expert(&uri, &name, format),
        Command::Copy {
            source,
            destination,
        } => library::copy(&source, &destination, format),
        Command::Remove { uri, name, restore } => library::remove(&uri, &name, restore),
        Command::Cluster {
            uri,
            k,
            sparsity,
            seed,
            out,
        } => {
            let how = lyceum::transform::Mbc { k, sparsity, seed };
            library::cluster(&uri, &how, &out, format)
        }
        Command::Eval(args) => eval::eval(&args, format),
        Command::Save { model, out } => model::save(&model, &out),
        Command::Base {
            command: BaseCommand::Show { dir },
        } => base::show(dir.as_deref(), format),
        Command::Generate {
            model,
            prompt,
            chat,
            system,
            task,
            max_new,
        } => {
            let prompt = match chat {
                true => model::Prompt::Chat(&prompt, system.as_deref()),
                false => model::Prompt::Text(&prompt),
            };
            model::generate(&model, prompt, task.as_deref(), max_new, format)
        }
        Command::Logits {
            model,
            tasks,
            input,
            out,
        } => logits::logits(&model, tasks.as_deref(), &input, &out),
    }
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
