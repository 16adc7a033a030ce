//! `adapter_config.json` as PEFT writes it, read strictly.
//!
//! Every field is honoured here, known to be without effect, or refused by name (`fields`). The
//! rules by which modules match are PEFT's (`check_target_module_exists`, `get_pattern_key`).

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::fields::{object, refuse, wrong};
use crate::error::{Error, Result};
use crate::lora::ends_in;

/// Which modules: a list of names, or a regular expression over whole paths.
#[derive(Debug)]
enum Modules {
    List(Vec<String>),
    Pattern(Box<Regex>),
    /// `all-linear`: every linear but the head.
    AllLinear,
}

impl Modules {
    fn read(value: &Value, field: &str) -> Result<Option<Self>> {
        Ok(match value {
            Value::Null => None,
            Value::String(text) if text == "all-linear" => Some(Modules::AllLinear),
            Value::String(text) => {
                let whole = regex(&format!(r"\A(?:{text})\z"), field)?;
                Some(Modules::Pattern(Box::new(whole)))
            }
            list => {
                let mut names = strings(list, field)?;
                names.sort();
                names.dedup();
                (!names.is_empty()).then_some(Modules::List(names))
            }
        })
    }

    fn fits(&self, path: &str) -> Result<bool> {
        match self {
            Modules::AllLinear => Ok(true),
            Modules::List(names) => Ok(names.iter().any(|name| ends_in(path, name))),
            Modules::Pattern(regex) => fits(regex, path),
        }
    }
}

/// An adapter's configuration, as far as it bears on its output.
#[derive(Debug)]
pub(super) struct Config {
    rank: usize,
    alpha: f64,
    pub(super) rslora: bool,
    targets: Modules,
    exclude: Option<Modules>,
    layers: Option<(Vec<u64>, Vec<Regex>)>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    /// `base_model_name_or_path`.
    pub(super) base_name: Option<String>,
    /// `modules_to_save`: what was trained whole, or at least saved.
    pub(super) saved: Vec<String>,
}

/// PEFT's rank and `lora_alpha` where they are absent.
const DEFAULT: u64 = 8;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field that is malformed or cannot be honoured.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let fields = object(bytes)?;
        refuse(&fields)?;
        let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
        let default = Value::from(DEFAULT);
        let rank = whole(fields.get("r").unwrap_or(&default), "r")?;
        let alpha = fields.get("lora_alpha").unwrap_or(&default);
        let alpha = number(alpha, "lora_alpha")?;
        let saved = match field("modules_to_save") {
            Value::Null => Vec::new(),
            list => strings(list, "modules_to_save")?,
        };
        let targets = Modules::read(field("target_modules"), "target_modules")?;
        let targets = targets.ok_or_else(|| wrong("target_modules", "names no module"))?;
        let layers = layers(&fields, &targets)?;
        Ok(Config {
            rank,
            alpha,
            rslora: flag(field("use_rslora"), "use_rslora")?,
            targets,
            exclude: Modules::read(field("exclude_modules"), "exclude_modules")?,
            layers,
            ranks: pattern(field("rank_pattern"), "rank_pattern", whole)?,
            alphas: pattern(field("alpha_pattern"), "alpha_pattern", number)?,
            base_name: field("base_model_name_or_path").as_str().map(str::to_owned),
            saved,
        })
    }

    /// True if the module at `path` is adapted.
    pub(super) fn adapts(&self, path: &str) -> Result<bool> {
        if let Some(exclude) = &self.exclude
            && exclude.fits(path)?
        {
            return Ok(false);
        }
        if !self.targets.fits(path)? {
            return Ok(false);
        }
        let Some((layers, before)) = &self.layers else {
            return Ok(true);
        };
        for regex in before {
            let found = regex.captures(path).map_err(|e| slow(&e))?;
            if let Some(number) = found.and_then(|c| c.get(1)?.as_str().parse().ok()) {
                return Ok(layers.contains(&number));
            }
        }
        Ok(false)
    }

    /// The target list, where it alone says which modules these are.
    pub(super) fn plain_targets(&self) -> Option<&[String]> {
        match &self.targets {
            Modules::List(names) if self.exclude.is_none() && self.layers.is_none() => Some(names),
            _ => None,
        }
    }

    /// Rank and alpha of the module at `path`.
    pub(super) fn part(&self, path: &str) -> Result<(usize, f64)> {
        fn first<T: Copy>(patterns: &[(Regex, T)], path: &str, default: T) -> Result<T> {
            for (regex, value) in patterns {
                if fits(regex, path)? {
                    return Ok(*value);
                }
            }
            Ok(default)
        }
        let rank = first(&self.ranks, path, self.rank)?;
        Ok((rank, first(&self.alphas, path, self.alpha)?))
    }
}

/// `layers_to_transform`, and how to find a path's layer number.
fn layers(
    fields: &Map<String, Value>,
    targets: &Modules,
) -> Result<Option<(Vec<u64>, Vec<Regex>)>> {
    let field = "layers_to_transform";
    let numbers = match fields.get(field).unwrap_or(&Value::Null) {
        Value::Null => return Ok(None),
        Value::Array(items) if items.is_empty() => return Ok(None),
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    };
    let number = |n: &Value| {
        n.as_u64()
            .ok_or_else(|| wrong(field, "holds no layer number"))
    };
    let numbers = numbers.iter().map(number).collect::<Result<_>>()?;
    if !matches!(targets, Modules::List(_)) {
        return Err(wrong(field, "needs target_modules to be a list"));
    }
    let field = "layers_pattern";
    let before = match fields.get(field).unwrap_or(&Value::Null) {
        Value::Null => Vec::new(),
        Value::String(text) if text.is_empty() => Vec::new(),
        Value::String(text) => vec![text.clone()],
        list => strings(list, field)?,
    };
    let regexes: Vec<Regex> = match before.is_empty() {
        true => vec![regex(r"\A.*?\.[^.]*\.(\d+)\.", field)?],
        false => (before.iter())
            .map(|text| regex(&format!(r"\A(?:|.*?\.)(?:{text})\.(\d+)\."), field))
            .collect::<Result<_>>()?,
    };
    Ok(Some((numbers, regexes)))
}

/// A pattern's keys as regular expressions over the end of a path, in their order.
fn pattern<T>(
    value: &Value,
    field: &str,
    read: impl Fn(&Value, &str) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let pair = |(key, value): (&String, &Value)| {
        let ends = regex(&format!(r"\A(?:.*\.)?(?:{key})\z"), field)?;
        Ok((ends, read(value, field)?))
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => map.iter().map(pair).collect(),
        _ => Err(wrong(field, "is not an object")),
    }
}

fn slow(error: &fancy_regex::Error) -> Error {
    Error::invalid(format!("a regular expression cannot be run: {error}"))
}

fn regex(text: &str, field: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| wrong(field, &format!("is not a regular expression: {e}")))
}

fn fits(regex: &Regex, path: &str) -> Result<bool> {
    regex.is_match(path).map_err(|e| slow(&e))
}

fn whole(value: &Value, field: &str) -> Result<usize> {
    let n = value.as_u64().filter(|n| (1..=4096).contains(n));
    n.map(|n| n as usize)
        .ok_or_else(|| wrong(field, "must be a rank from 1 to 4096"))
}

fn number(value: &Value, field: &str) -> Result<f64> {
    let x = value.as_f64().filter(|x| x.is_finite());
    x.ok_or_else(|| wrong(field, "must be a number"))
}

fn flag(value: &Value, field: &str) -> Result<bool> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(on) => Ok(*on),
        _ => Err(wrong(field, "must be true or false")),
    }
}

fn strings(value: &Value, field: &str) -> Result<Vec<String>> {
    let items = value
        .as_array()
        .ok_or_else(|| wrong(field, "must be a list of names"))?;
    let text = |item: &Value| item.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let all: Option<Vec<String>> = items.iter().map(text).collect();
    all.ok_or_else(|| wrong(field, "must be a list of names"))
}
