//! The library's hints in the words of the command line.

use lyceum::Hint;

/// Returns `hint` as a clause that names a flag or a command.
pub(crate) fn words(hint: &Hint) -> String {
    match hint {
        Hint::Option(option) => format!("give {}", flag(option)),
        Hint::Set { option, value } => format!("use {} {value}", flag(option)),
        Hint::Lower(option) => format!("lower {}", flag(option)),
        Hint::Omit(option) => format!("leave out {}", flag(option)),
        Hint::Derive { library, kind } => format!("run: lyceum derive {library} {kind}"),
        Hint::Train { library } => {
            format!("train experts into it with `lyceum train --library {library}`")
        }
        Hint::Import { source } => {
            format!("`lyceum import {source} DESTINATION` makes it Lyceum's own")
        }
        Hint::ImportWithBase => "`lyceum import --base DIR` records the base".into(),
        Hint::OtherBase => "--allow-other-base uses it all the same".into(),
        Hint::Feature(feature) => format!("build it with `--features {feature}`"),
        Hint::Offline => "--offline uses what is cached".into(),
        Hint::Online => "run it once without --offline and HF_HUB_OFFLINE".into(),
        // A hint of a newer library.
        other => format!("{other:?}"),
    }
}

fn flag(option: &str) -> String {
    format!("--{}", option.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn hints_name_flags_that_exist() {
        let options = [
            Hint::Lower("max_input"),
            Hint::Lower("max_new"),
            Hint::Set {
                option: "precision",
                value: "bf16",
            },
            Hint::Set {
                option: "device",
                value: "cpu",
            },
            Hint::Set {
                option: "mixing",
                value: "outputs",
            },
            Hint::OtherBase,
            Hint::Offline,
        ];
        let mut known = Vec::new();
        let mut commands = vec![crate::args::Cli::command()];
        while let Some(command) = commands.pop() {
            known.extend(
                command
                    .get_arguments()
                    .filter_map(|a| a.get_long().map(String::from)),
            );
            commands.extend(command.get_subcommands().cloned());
        }
        for hint in options {
            let text = words(&hint);
            let named = text
                .split("--")
                .nth(1)
                .and_then(|rest| rest.split(' ').next());
            let named = named.unwrap();
            assert!(known.iter().any(|flag| flag == named), "{text}");
        }
    }
}
