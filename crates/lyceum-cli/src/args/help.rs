//! The help of `lyceum` itself: its commands by groups, exit codes, environment.

use clap::Command;

use crate::{exit, project};

/// The commands by what they are for, in the order of work.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Train", &["run", "train", "pretrain"]),
    (
        "Library",
        &[
            "list", "show", "history", "copy", "import", "export", "check", "remove", "restore",
            "rename", "purge",
        ],
    ),
    (
        "Route and evaluate",
        &[
            "cluster", "derive", "merge", "eval", "generate", "logits", "save", "plot",
        ],
    ),
    (
        "Tools",
        &[
            "data",
            "base",
            "init",
            "config",
            "cache",
            "completions",
            "man",
        ],
    ),
];

/// Returns `command` with its subcommands listed by groups in its help.
pub(crate) fn grouped(command: Command) -> Command {
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (group, names) in GROUPS {
        text += &format!("\n{group}:\n");
        for name in names {
            let found = command.find_subcommand(name);
            let about = found.and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            // The rest of a sentence is in the command's own help.
            let short = about.split([';', '(', ':']).next().unwrap_or_default();
            text += &format!("  {name:<12} {}\n", short.trim_end());
        }
    }
    command
        .help_template(text + "\nOptions:\n{options}{after-help}")
        .mut_subcommands(examples_first)
}

/// Returns `command`, one of `lyceum`'s, with its examples before its usage in its help.
fn examples_first(command: Command) -> Command {
    command
        .help_template(
            "{about-with-newline}\n{after-help}\n\n{usage-heading} {usage}\n\n{all-args}",
        )
        .mut_subcommands(examples_first)
}

/// Exit codes and environment.
pub(super) fn at_length() -> String {
    format!("{}\n\n{}", exit::HELP, project::HELP)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = crate::args::Cli::command();
        let mut named: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let mut all: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        named.sort_unstable();
        all.sort_unstable();
        assert_eq!(named, all);
    }

    #[test]
    fn short_help_fits_a_screen() {
        let help = grouped(crate::args::Cli::command())
            .render_help()
            .to_string();
        assert!(help.lines().count() <= 50, "{help}");
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
}
