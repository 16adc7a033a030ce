//! Which files of a data set hold which split, as the Hugging Face hub reads it: by the `configs`
//! of its README, or by the names of files and folders.

use std::collections::BTreeSet;

use yaml_rust2::{Yaml, YamlLoader};

use super::pattern::matches;
use super::{Split, format, layout};
use crate::error::{Context, Error, Result};

/// The file that describes a data set.
pub(super) const README: &str = "README.md";
/// A README's front matter may be this long.
const LONGEST: usize = 1 << 20;

/// A file, and the split it holds unless its rows say.
pub(super) type Held = (String, Option<Split>);

/// The files of one configuration.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Its files.
    pub(super) held: Vec<Held>,
    /// Notes about whatever else the README describes or leaves out, one line each.
    pub(super) notes: Vec<String>,
}

/// Those of `paths` that hold the rows of the configuration `name` (the default one when absent).
/// `readme` is the text of the README, if there is one.
///
/// # Errors
/// When the README cannot be understood, there is no such configuration, or one must be chosen.
pub(super) fn files(paths: &[&str], readme: Option<&str>, name: Option<&str>) -> Result<Chosen> {
    let rows = |path: &&&str| format::rows(path);
    let rows: Vec<&str> = paths.iter().filter(rows).copied().collect();
    let configs = match readme.and_then(front) {
        Some(front) => configs(front)?,
        None => Vec::new(),
    };
    let Some(config) = chosen(&configs, name)? else {
        let named = |path: &&str| ((*path).to_owned(), by_name(path));
        return Ok(Chosen {
            held: rows.iter().map(named).collect(),
            notes: Vec::new(),
        });
    };
    let (mut held, mut seen) = (Vec::new(), BTreeSet::new());
    for (split, pattern) in config.patterns() {
        let mut there = { rows.iter() }
            .filter(|path| matches(&pattern, path))
            .peekable();
        if there.peek().is_none() {
            return Err(missing(paths, &pattern));
        }
        for path in there {
            let split = split.map(str::parse::<Split>).transpose();
            let split = split.context(|| format!("{README}, configuration `{}`", config.name))?;
            let one = ((*path).to_owned(), split.or_else(|| by_name(path)));
            // Patterns may overlap.
            if seen.insert(one.clone()) {
                held.push(one);
            }
        }
    }
    Ok(Chosen {
        notes: beside(&rows, &configs, config),
        held,
    })
}

/// An error about a pattern that no file of rows fits.
fn missing(paths: &[&str], pattern: &str) -> Error {
    let why = match paths.iter().find(|path| matches(pattern, path)) {
        Some(path) => format!("{path} is not read; {} are", format::READ),
        None => format!("there is no such file (of {})", format::READ),
    };
    Error::invalid(format!("{README} names `{pattern}` in configs, and {why}"))
}

/// Notes about the files and configurations besides `config`, one line each.
fn beside(rows: &[&str], configs: &[Config], config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let others = { configs.iter() }.filter(|other| other.name != config.name);
    let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
    if !others.is_empty() {
        notes.push(format!(
            "read the configuration `{}` of {README}; there are others: {}",
            config.name,
            others.join(", ")
        ));
    }
    let patterns: Vec<String> = { configs.iter().flat_map(Config::patterns) }
        .map(|(_, pattern)| pattern)
        .collect();
    let none = |path: &&&str| !patterns.iter().any(|pattern| matches(pattern, path));
    let left = { rows.iter() }.filter(none).map(|path| (*path).to_owned());
    let left: Vec<String> = left.collect();
    notes.extend(layout::note(
        &left,
        &format!("that `configs` of {README} do not name"),
    ));
    notes
}

#[derive(Debug, Default)]
struct Config {
    name: String,
    default: bool,
    dir: Option<String>,
    files: Vec<(Option<String>, String)>,
}

impl Config {
    /// The patterns of its files, from the top, each with its split.
    fn patterns(&self) -> impl Iterator<Item = (Option<&str>, String)> {
        self.files.iter().map(|(split, pattern)| {
            let below = match self.dir.as_deref().map(|dir| dir.trim_matches('/')) {
                None | Some("" | ".") => pattern.clone(),
                Some(dir) => format!("{dir}/{pattern}"),
            };
            (split.as_deref(), below.trim_start_matches("./").to_owned())
        })
    }
}

/// Returns `true` if the README's front matter has a `configs` block.
pub(super) fn are_in(readme: &str) -> bool {
    front(readme).is_some_and(|front| !block(front).is_empty())
}

/// The YAML front matter: the text between the first two lines of dashes.
fn front(readme: &str) -> Option<&str> {
    let rest = readme.strip_prefix('\u{feff}').unwrap_or(readme);
    let rest = rest
        .strip_prefix("---")?
        .trim_start_matches('\r')
        .strip_prefix('\n')?;
    rest.split("\n---").next()
}

/// The lines of the front matter that say `configs`.
fn block(front: &str) -> String {
    let top = |line: &&str| line.starts_with(|c: char| !c.is_whitespace() && c != '-' && c != '#');
    let mut lines = front
        .lines()
        .skip_while(|line| !line.starts_with("configs:"));
    let first = lines.next().map(ToOwned::to_owned);
    let rest = lines.take_while(|line| !top(line));
    first
        .into_iter()
        .chain(rest.map(ToOwned::to_owned))
        .collect::<Vec<_>>()
        .join("\n")
}

fn configs(front: &str) -> Result<Vec<Config>> {
    let bad = |why: &str| Error::format(README, format!("`configs` {why}"));
    let text = block(front);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // References within YAML can be made to grow without bound; nobody needs them here.
    if text.len() > LONGEST || text.contains('&') {
        return Err(bad("is too long, or uses references"));
    }
    let parsed = YamlLoader::load_from_str(&text).map_err(|e| bad(&e.to_string()))?;
    let listed = parsed.first().map(|all| &all["configs"]);
    let listed = listed
        .and_then(Yaml::as_vec)
        .ok_or_else(|| bad("is not a list"))?;
    let mut configs = Vec::new();
    for one in listed {
        let text = |key: &str| one[key].as_str().map(ToOwned::to_owned);
        let mut config = Config {
            name: text("config_name").unwrap_or_else(|| "default".into()),
            default: one["default"].as_bool().unwrap_or(false),
            dir: text("data_dir"),
            files: Vec::new(),
        };
        match &one["data_files"] {
            Yaml::BadValue => config.files.push((None, "**".into())),
            Yaml::String(path) => config.files.push((None, path.clone())),
            Yaml::Array(all) => {
                for each in all {
                    match each {
                        Yaml::String(path) => config.files.push((None, path.clone())),
                        each => {
                            let split = each["split"].as_str().map(ToOwned::to_owned);
                            let paths = strings(&each["path"]);
                            let paths = paths.ok_or_else(|| bad("has a split without a path"))?;
                            let pairs = paths.into_iter().map(|path| (split.clone(), path));
                            config.files.extend(pairs);
                        }
                    }
                }
            }
            _ => return Err(bad("has data_files that are not a list")),
        }
        configs.push(config);
    }
    Ok(configs)
}

fn strings(value: &Yaml) -> Option<Vec<String>> {
    match value {
        Yaml::String(one) => Some(vec![one.clone()]),
        Yaml::Array(many) => many
            .iter()
            .map(|one| Some(one.as_str()?.to_owned()))
            .collect(),
        _ => None,
    }
}

/// The configuration asked for, or the default one; `None` when there are none at all.
fn chosen<'a>(configs: &'a [Config], name: Option<&str>) -> Result<Option<&'a Config>> {
    let names = || configs.iter().map(|config| config.name.as_str());
    if let Some(name) = name {
        let found = configs.iter().find(|config| config.name == name);
        return match found {
            Some(config) => Ok(Some(config)),
            None => Err(Error::not_found("folder or configuration", name, names())),
        };
    }
    let default = { configs.iter().find(|config| config.default) }
        .or_else(|| configs.iter().find(|config| config.name == "default"))
        .or_else(|| configs.first().filter(|_| configs.len() == 1));
    match default {
        None if !configs.is_empty() => Err(Error::invalid(format!(
            "the data has several configurations and no default; put one of them after the \
             address or folder: {}",
            names().collect::<Vec<_>>().join(", ")
        ))),
        default => Ok(default),
    }
}

/// The split that the name of a file, or else of a folder it is in, speaks of.
pub(super) fn by_name(path: &str) -> Option<Split> {
    path.rsplit('/').find_map(|part| {
        part.split(|c: char| !c.is_ascii_alphanumeric())
            .find_map(|word| match word.to_ascii_lowercase().as_str() {
                "train" | "training" => Some(Split::Train),
                "validation" | "valid" | "dev" | "val" => Some(Split::Validation),
                "test" | "testing" | "eval" | "evaluation" => Some(Split::Test),
                _ => None,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "---\nlicense: mit\nconfigs:\n- config_name: small\n  default: true\n  \
                          data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    \
                          path:\n    - \"data/held.jsonl\"\n    - data/more/*.jsonl\n- config_name: \
                          big\n  data_files: \"big/**\"\ntags: [a]\n---\n# Text\n";
    const PATHS: [&str; 7] = [
        "README.md",
        "big/x/dev/rows.jsonl",
        "big/train.parquet",
        "data/held.jsonl",
        "data/more/a.jsonl",
        "data/train-0.parquet",
        "data/train-1.parquet",
    ];

    fn told(readme: Option<&str>, name: Option<&str>) -> Result<Vec<String>> {
        let held = files(&PATHS, readme, name)?;
        let line = |(path, split): &Held| format!("{path} {split:?}");
        Ok(held.held.iter().map(line).collect())
    }

    #[test]
    fn the_readme_says_which_files_hold_what() {
        assert_eq!(
            told(Some(README), None).unwrap(),
            [
                "data/train-0.parquet Some(Train)",
                "data/train-1.parquet Some(Train)",
                "data/held.jsonl Some(Test)",
                "data/more/a.jsonl Some(Test)",
            ]
        );
        assert_eq!(
            told(Some(README), Some("big")).unwrap(),
            [
                "big/x/dev/rows.jsonl Some(Validation)",
                "big/train.parquet Some(Train)"
            ]
        );
        let error = told(Some(README), Some("bi")).unwrap_err().to_string();
        assert!(error.contains("did you mean big"), "{error}");
        let open = README.replace("  default: true\n", "");
        let error = told(Some(&open), None).unwrap_err().to_string();
        assert!(error.contains("small, big"), "{error}");
        let gone = README.replace("held", "lost");
        let error = told(Some(&gone), None).unwrap_err().to_string();
        assert!(error.contains("data/lost.jsonl"), "{error}");
    }

    #[test]
    fn without_configs_names_say_it() {
        for readme in [None, Some("# Text"), Some("---\nlicense: mit\n---\n")] {
            let told = told(readme, None).unwrap();
            assert_eq!(told.len(), 6);
            assert!(told.contains(&"data/held.jsonl None".to_owned()));
            assert!(told.contains(&"big/x/dev/rows.jsonl Some(Validation)".to_owned()));
        }
    }

    #[test]
    fn yaml_from_outside_is_read_with_care() {
        for bad in [
            "configs: 3",
            "configs: &a [*a, *a]",
            "configs:\n- config_name: x\n  data_files: {a: b}",
            "configs:\n- data_files:\n  - split: train",
            "configs:\n  - [",
        ] {
            assert!(
                told(Some(&format!("---\n{bad}\n---\n")), None).is_err(),
                "{bad}"
            );
        }
    }
}
