//! The `lyceum` command: parse, run, exit code. Every subcommand is one file in `cmd`.
//!
//! Exit codes: 0 done; 1 it ran and found something wrong (`check`); 2 it could not be done, and
//! stderr says why and what to do; 130 it was asked to stop (Ctrl-C), and stderr says what is kept.

mod args;
mod cmd;
mod hint;
mod interrupt;
mod log;
mod out;

use clap::Parser;

/// The exit code of what was asked to stop.
pub(crate) const STOPPED: u8 = 130;

fn main() -> std::process::ExitCode {
    lyceum_kernels::memory::keep_freed();
    let cli = args::Cli::parse();
    match cmd::run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) if out::broken_pipe(&error) => std::process::ExitCode::SUCCESS,
        Err(error) if error.is::<out::NotClean>() => std::process::ExitCode::from(1),
        Err(error) => match out::stopped(&error) {
            Some(text) => {
                out::say(&text);
                std::process::ExitCode::from(STOPPED)
            }
            None => {
                out::complain(&error);
                std::process::ExitCode::from(2)
            }
        },
    }
}
