//! Settings of a project (`lyceum.toml`) and of the environment: defaults of the flags with the same
//! names. A flag goes before the environment, the environment before the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, Command};
use serde::Deserialize;

/// The file's name.
pub(crate) const FILE: &str = "lyceum.toml";

/// The base and the data that ship with Lyceum, as a project names them.
const EMBEDDED: &str = "embedded";

/// The settings that the environment can give, by flag.
pub(crate) const VARIABLES: [(&str, &str); 4] = [
    ("base", "LYCEUM_BASE"),
    ("library", "LYCEUM_LIBRARY"),
    ("data", "LYCEUM_DATA"),
    ("threads", "LYCEUM_THREADS"),
];

/// The section of `lyceum --help`.
pub(crate) const HELP: &str = "\
Environment, before lyceum.toml and after flags:
  LYCEUM_BASE, LYCEUM_LIBRARY, LYCEUM_DATA, LYCEUM_THREADS
  LYCEUM_CACHE     folder for copies of remote files
  HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, AWS_*, AZURE_*, GOOGLE_*
  NO_COLOR         no colour";

/// A project's file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: Option<String>,
    library: Option<String>,
    data: Option<String>,
    threads: Option<usize>,
    /// Defaults of any other flags, by their names with `_` for `-`.
    #[serde(default)]
    defaults: BTreeMap<String, toml::Value>,
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// The place a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Variable(&'static str),
    File(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Variable(name) => f.write_str(name),
            Origin::File(path) => path.display().fmt(f),
        }
    }
}

/// The settings in force, by flag (with `_` for `-`).
#[derive(Debug, Default)]
pub(crate) struct Project(pub(crate) BTreeMap<String, Setting>);

impl Project {
    /// Reads the environment and the nearest project file at `folder` or above it.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or sets what no flag is called.
    pub(crate) fn read(
        folder: &Path,
        variable: impl Fn(&str) -> Option<String>,
        commands: &Command,
    ) -> Result<Self> {
        let mut settings = BTreeMap::new();
        if let Some(path) = found(folder) {
            settings = of_file(&path, commands)?;
        }
        for (flag, name) in VARIABLES {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                let origin = Origin::Variable(name);
                settings.insert(flag.to_owned(), Setting { value, origin });
            }
        }
        Ok(Project(settings))
    }

    /// Returns `command` with these settings as defaults of its flags and those of its subcommands.
    pub(crate) fn apply(&self, command: Command) -> Command {
        let only = command
            .get_positionals()
            .filter(|arg| arg.is_required_set())
            .count()
            == 1;
        let name = command.get_name().to_owned();
        let command = command.mut_args(|arg| match self.of(&arg, &name, only) {
            Some(setting) => arg.required(false).default_value(setting.value.clone()),
            None => arg,
        });
        command.mut_subcommands(|sub| self.apply(sub))
    }

    /// The setting that is the default of `arg` of `command`; `only` if the command has one
    /// positional argument that is required.
    fn of(&self, arg: &Arg, command: &str, only: bool) -> Option<&Setting> {
        let id = arg.get_id().as_str();
        // Flags that are called as a setting and mean something else, and recipes, which say
        // everything themselves.
        let own = matches!(
            (command, id),
            ("merge", "library") | ("list" | "import" | "init", "base" | "library" | "data")
        );
        if own || matches!(command, "run" | "pretrain") {
            return None;
        }
        match (id, arg.is_positional()) {
            // A library that is all there is to name may be the project's.
            ("uri", true) if only => self.0.get("library"),
            (_, true) => None,
            // What is embedded is the default already.
            (id, false) => self.0.get(id).filter(|setting| setting.value != EMBEDDED),
        }
    }
}

/// The nearest project file at `folder` or above it.
fn found(folder: &Path) -> Option<PathBuf> {
    let mut files = folder.ancestors().map(|above| above.join(FILE));
    files.find(|file| file.is_file())
}

fn of_file(path: &Path, commands: &Command) -> Result<BTreeMap<String, Setting>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: File = toml::from_str(&text).map_err(|error| {
        anyhow::anyhow!("{}: {}", path.display(), lyceum::recipe::explain(&error))
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut settings = BTreeMap::new();
    let mut set = |flag: &str, value: String| {
        let origin = Origin::File(path.to_owned());
        settings.insert(flag.to_owned(), Setting { value, origin });
    };
    let places = [
        ("base", file.base),
        ("library", file.library),
        ("data", file.data),
    ];
    for (flag, place) in places {
        if let Some(place) = place {
            set(flag, below(folder, &place));
        }
    }
    if let Some(threads) = file.threads {
        set("threads", threads.to_string());
    }
    for (flag, value) in file.defaults {
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
                value.to_string()
            }
            _ => bail!(
                "{}: `defaults.{flag}` must be text, a number, true or false",
                path.display()
            ),
        };
        if !is_flag(commands, &flag) {
            bail!(
                "{}: `defaults.{flag}` is no flag of any command",
                path.display()
            );
        }
        set(&flag, value);
    }
    Ok(settings)
}

/// A place as a project's file names it: paths begin at the file's folder, addresses stay.
fn below(folder: &Path, place: &str) -> String {
    match place == EMBEDDED || place.contains("://") {
        true => place.to_owned(),
        false => folder.join(place).display().to_string(),
    }
}

/// Returns `true` if `command` or a subcommand has the flag `id`.
fn is_flag(command: &Command, id: &str) -> bool {
    let flag = |arg: &Arg| arg.get_id() == id && !arg.is_positional();
    command.get_arguments().any(flag) || command.get_subcommands().any(|sub| is_flag(sub, id))
}

/// Returns `command` with what holds for every flag: a repeated one overrides the earlier, and
/// negative numbers are values.
pub(crate) fn conventions(command: Command) -> Command {
    let command = command.args_override_self(true).mut_args(|arg| {
        match matches!(arg.get_action(), ArgAction::Set) && !arg.is_positional() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    });
    command.mut_subcommands(conventions)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::{self, Cli};

    fn parsed(project: &Project, line: &str) -> Cli {
        let command = project.apply(conventions(Cli::command()));
        let matches = command.get_matches_from(line.split_whitespace());
        Cli::from_arg_matches(&matches).unwrap()
    }

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Project> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), file).unwrap();
        let below = dir.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Project::read(&below, variable, &Cli::command())
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let file = "library = 's3://b/l'\nbase = 'embedded'\nthreads = 3\n[defaults]\nrank = 2";
        let settings = read(file, &[("LYCEUM_LIBRARY", "mine")]).unwrap();
        let args::Command::Train(train) = parsed(&settings, "lyceum train").command else {
            panic!()
        };
        assert_eq!((train.library.as_str(), train.rank), ("mine", 2));
        let cli = parsed(
            &settings,
            "lyceum train --library other --rank 8 --rank 16 -t 1",
        );
        let args::Command::Train(train) = cli.command else {
            panic!()
        };
        assert_eq!((train.library.as_str(), train.rank), ("other", 16));
        assert_eq!(cli.common.threads, Some(1));
        let cli = parsed(&settings, "lyceum list");
        assert_eq!(cli.common.threads, Some(3));
        let args::Command::List(list) = cli.command else {
            panic!()
        };
        assert_eq!(list.uri, "mine");
    }

    #[test]
    fn paths_begin_at_the_file() {
        let settings = read("library = 'experts'\ndata = 'hf://datasets/o/n'", &[]).unwrap();
        let value = |flag: &str| settings.0[flag].value.clone();
        assert!(Path::new(&value("library")).is_absolute());
        assert!(value("library").ends_with("experts"));
        assert_eq!(value("data"), "hf://datasets/o/n");
    }

    #[test]
    fn what_is_no_setting_is_an_error() {
        for (file, said) in [
            ("librarry = 'x'", "librarry"),
            ("[defaults]\nranks = 2", "defaults.ranks"),
            ("[defaults]\nrank = [2]", "defaults.rank"),
            ("library = 1", "library"),
        ] {
            let error = format!("{:#}", read(file, &[]).unwrap_err());
            assert!(error.contains(said) && error.contains(FILE), "{error}");
        }
    }
}
