//! Which files of a data set hold which split, as the Hugging Face hub reads it: by the `configs`
//! of its README, or by the names of files and folders.

use yaml_rust2::{Yaml, YamlLoader};

use super::Split;
use crate::error::{Error, Result};

/// The file that describes a data set.
pub(super) const README: &str = "README.md";
/// A README's front matter may be this long.
const LONGEST: usize = 1 << 20;

/// A file, and the split it holds unless its rows say.
pub(super) type Held = (String, Option<Split>);

/// Those of `paths` that hold the rows of the configuration `name` (the default one when absent).
/// `readme` is the text of the README, if there is one.
///
/// # Errors
/// When the README cannot be understood, there is no such configuration, or one must be chosen.
pub(super) fn files(paths: &[&str], readme: Option<&str>, name: Option<&str>) -> Result<Vec<Held>> {
    let rows = |path: &&&str| path.ends_with(".jsonl") || path.ends_with(".parquet");
    let rows: Vec<&str> = paths.iter().filter(rows).copied().collect();
    let configs = match readme.and_then(front) {
        Some(front) => configs(front)?,
        None => Vec::new(),
    };
    let Some(config) = chosen(&configs, name)? else {
        return Ok(rows
            .iter()
            .map(|path| ((*path).to_owned(), by_name(path)))
            .collect());
    };
    let mut held = Vec::new();
    for (split, pattern) in &config.files {
        let below = match config.dir.as_deref() {
            Some(dir) => format!("{}/{pattern}", dir.trim_end_matches('/')),
            None => pattern.clone(),
        };
        let pattern = below.trim_start_matches("./");
        let before = held.len();
        let matching = { rows.iter() }.filter(|path| matches(pattern, path));
        for path in matching {
            let split = split.as_deref().map(str::parse).transpose();
            held.push(((*path).to_owned(), split?.or_else(|| by_name(path))));
        }
        if held.len() == before {
            return Err(Error::invalid(format!(
                "{README} names `{pattern}` in configs, and there is no such .jsonl or .parquet \
                 file"
            )));
        }
    }
    Ok(held)
}

#[derive(Debug, Default)]
struct Config {
    name: String,
    default: bool,
    dir: Option<String>,
    files: Vec<(Option<String>, String)>,
}

/// Whether a README says `configs`.
pub(super) fn are_in(readme: &str) -> bool {
    front(readme).is_some_and(|front| !block(front).is_empty())
}

/// What stands between the first two lines of dashes.
fn front(readme: &str) -> Option<&str> {
    let rest = readme
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
        .ok_or_else(|| bad("is no list"))?;
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
            _ => return Err(bad("has data_files that are no list")),
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
             address: {}",
            names().collect::<Vec<_>>().join(", ")
        ))),
        default => Ok(default),
    }
}

/// Whether a path fits a pattern: `*` within a folder's name, `**` across folders. A pattern
/// that names a folder means all in it.
fn matches(pattern: &str, path: &str) -> bool {
    fn fits(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', b'/', rest @ ..] => {
                fits(rest, path)
                    || (0..path.len()).any(|at| path[at] == b'/' && fits(rest, &path[at + 1..]))
            }
            [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| fits(rest, &path[at..])),
            [b'*', rest @ ..] => {
                let end = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
                (0..=end).any(|at| fits(rest, &path[at..]))
            }
            [b'?', rest @ ..] => match path {
                [c, path @ ..] if *c != b'/' => fits(rest, path),
                _ => false,
            },
            [c, rest @ ..] => path.first() == Some(c) && fits(rest, &path[1..]),
        }
    }
    // More wildcards than any data set has would only take time.
    if pattern.matches('*').count() > 8 {
        return false;
    }
    let within = path.strip_prefix(pattern.trim_end_matches('/'));
    fits(pattern.as_bytes(), path.as_bytes()) || within.is_some_and(|rest| rest.starts_with('/'))
}

/// The split that the name of a file, or else of a folder it is in, speaks of.
pub(super) fn by_name(path: &str) -> Option<Split> {
    path.rsplit('/').find_map(|part| {
        part.split(|c: char| !c.is_ascii_alphanumeric())
            .find_map(|word| match word {
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
        Ok(held.iter().map(line).collect())
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
        assert!(!matches(&"*".repeat(40), "a"));
    }
}
