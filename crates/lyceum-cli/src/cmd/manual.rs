//! Shell completions and manual pages, generated from the definitions that parse the command line.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use lyceum::file;
use serde_json::json;

use crate::args::Cli;
use crate::out::{Format, count, show};

/// Prints the completion script of `shell`.
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lyceum", &mut script);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&script)?;
    stdout.flush().context("the script could not be written")
}

/// Writes `lyceum.1` and a page for every subcommand into the folder `out`.
pub(crate) fn pages(out: &Path, format: Format) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let pages = write(&command, out)?;
    let value = json!({ "pages": pages, "wrote": [out] });
    show(format, &value, |_| {
        format!("wrote {} to {}", count(pages, "page"), out.display())
    })
}

/// Writes the page of `command` and those of its subcommands; returns their number.
fn write(command: &Command, out: &Path) -> Result<usize> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    file::write(&out.join(man.get_filename()), &page)?;
    let mut count = 1;
    for command in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        count += write(command, out)?;
    }
    Ok(count)
}
