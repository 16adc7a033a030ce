//! The small files beside a checkpoint's weights: tokens that end a text, and chat templates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::{Chat, DEFAULT};
use crate::data::{object, token};
use crate::error::{Error, Result};

/// Special tokens that transformers hands to a template by these names.
const TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The settings read from the small files beside the weights.
#[derive(Debug, Default)]
pub(in crate::backbone) struct Said {
    /// Tokens that end a text.
    pub(in crate::backbone) stops: BTreeSet<u32>,
    pub(in crate::backbone) chat: Chat,
}

impl Said {
    /// Reads `generation_config.json` (or, without one, `config.json`) for the tokens that end a
    /// text, and the chat templates.
    pub(in crate::backbone) fn open(dir: &Path) -> Result<Self> {
        let mut stops = stops(&dir.join("generation_config.json"))?;
        if stops.is_none() {
            stops = self::stops(&dir.join("config.json"))?;
        }
        let path = dir.join("tokenizer_config.json");
        let config = object(&path)?;
        let map = object(&dir.join("special_tokens_map.json"))?;
        let text = |name: &str| token(&config, name).or_else(|| token(&map, name));
        let tokens = TOKENS.iter();
        let mut tokens: BTreeMap<String, String> = tokens
            .filter_map(|name| Some(((*name).to_owned(), text(name)?)))
            .collect();
        if let Some(Value::Object(extra)) = config.get("extra_special_tokens") {
            let named = extra.keys();
            tokens.extend(named.filter_map(|name| Some((name.clone(), token(extra, name)?))));
        }
        let mut templates = written(dir)?;
        if templates.is_empty() {
            templates = listed(&path, &config)?;
        }
        if templates.is_empty() {
            let path = dir.join("chat_template.json");
            templates = listed(&path, &object(&path)?)?;
        }
        Ok(Said {
            stops: stops.unwrap_or_default(),
            chat: Chat::new(templates, tokens),
        })
    }
}

/// `eos_token_id` of a file: one id or several.
fn stops(path: &Path) -> Result<Option<BTreeSet<u32>>> {
    let file = object(path)?;
    let wrong = |value: &Value| {
        let why = format!("`eos_token_id` is {value}; it must be a token id or a list of them");
        Error::format(path.display(), why)
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong(value))
    };
    match file.get("eos_token_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(ids)) => ids.iter().map(id).collect::<Result<_>>().map(Some),
        Some(one) => Ok(Some(BTreeSet::from([id(one)?]))),
    }
}

/// Templates in files of their own: `chat_template.jinja` is the default, those of
/// `additional_chat_templates` go by their names. They stand above any other place.
fn written(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::io(path, e));
    let default = dir.join("chat_template.jinja");
    if default.exists() {
        all.insert(DEFAULT.to_owned(), read(&default)?);
    }
    let more = dir.join("additional_chat_templates");
    if more.is_dir() {
        for entry in std::fs::read_dir(&more).map_err(|e| Error::io(&more, e))? {
            let path = entry.map_err(|e| Error::io(&more, e))?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let jinja = path.extension().is_some_and(|end| end == "jinja");
            if let (Some(name), true) = (name, jinja) {
                all.insert(name.to_owned(), read(&path)?);
            }
        }
    }
    Ok(all)
}

/// The field `chat_template` of a file: one template, or several by name.
fn listed(path: &Path, file: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    let wrong = || {
        let why = "`chat_template` must be a text or a list of {name, template}";
        Error::format(path.display(), why)
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    match file.get("chat_template") {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::String(one)) => Ok(BTreeMap::from([(DEFAULT.to_owned(), one.clone())])),
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| text(one.get("name")).zip(text(one.get("template"))))
            .collect::<Option<_>>()
            .ok_or_else(wrong),
        Some(Value::Object(all)) => all
            .iter()
            .map(|(name, one)| Some((name.clone(), text(Some(one))?)))
            .collect::<Option<_>>()
            .ok_or_else(wrong),
        Some(_) => Err(wrong()),
    }
}
