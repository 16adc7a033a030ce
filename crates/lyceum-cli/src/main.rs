//! The `lyceum` command: parse, run, exit code. Every subcommand is one file in `cmd`.
//!
//! Exit codes are listed in [`exit`], and in `lyceum --help`.

mod args;
mod cmd;
mod exit;
mod hint;
mod interrupt;
mod log;
mod out;
mod project;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};

use crate::project::Project;

fn main() -> ExitCode {
    lyceum_kernels::memory::keep_freed();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if out::broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit::code(&error);
            match out::stopped(&error) {
                Some(text) => out::say(&text),
                // It has printed what is wrong.
                None if code == exit::NOT_CLEAN => {}
                None => out::complain(&error),
            }
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<()> {
    let command = project::conventions(args::Cli::command());
    let folder = std::env::current_dir()?;
    let project = Project::read(&folder, |name| std::env::var(name).ok(), &command)?;
    let matches = args::grouped(project.apply(command)).get_matches();
    let cli = args::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cmd::run(cli, &project)
}
