//! What a base's folder says about generating: tokens that end a text, and how conversations are
//! written.

use std::collections::BTreeSet;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Steps a template may take; a template comes from outside and must end.
const FUEL: u64 = 10_000_000;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// How a base writes conversations: a Jinja template, as `tokenizer_config.json` or
/// `chat_template.jinja` holds it.
///
/// `strftime_now` is left undefined: templates that ask for the date then use the one they were
/// written with, and a prompt is the same every day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    template: String,
    bos: String,
    eos: String,
}

impl Chat {
    /// A template, and the texts of the tokens that begin and end a text.
    pub(super) fn new(template: String, bos: String, eos: String) -> Self {
        Chat { template, bos, eos }
    }

    /// The prompt that asks for the answer to `messages`.
    ///
    /// # Errors
    /// When the template fails or refuses the conversation (some allow no system message).
    pub fn prompt(&self, messages: &[Message]) -> Result<String> {
        let bad = |e: minijinja::Error| {
            let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
            Error::format("chat template", format!("{}{detail}", e.kind()))
        };
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(bad)?;
        env.set_syntax(syntax);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function(
            "raise_exception",
            |why: String| -> Result<Value, minijinja::Error> {
                let kind = minijinja::ErrorKind::InvalidOperation;
                Err(minijinja::Error::new(kind, why))
            },
        );
        env.add_filter("tojson", |value: Value| {
            serde_json::to_string(&value).map_err(|e| {
                minijinja::Error::new(minijinja::ErrorKind::BadSerialization, e.to_string())
            })
        });
        let template = env.template_from_str(&self.template).map_err(bad)?;
        let turn = |m: &Message| {
            let fields = [("role", &m.role), ("content", &m.content)];
            Value::from_pairs(fields.map(|(name, text)| (name, text.as_str())))
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let known = context! {
            messages => turns,
            add_generation_prompt => true,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        template.render(known).map_err(bad)
    }
}

/// What the small files beside the weights say.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Tokens that end a text.
    pub(super) stops: BTreeSet<u32>,
    pub(super) chat: Option<Chat>,
}

/// A field that is one token or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

/// A field that is a text or an object around it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Token { content: String },
}

impl Text {
    fn get(self) -> String {
        match self {
            Text::Plain(text) | Text::Token { content: text } => text,
        }
    }
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Default, Deserialize)]
struct Generation {
    eos_token_id: Option<Ids>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<Text>,
    eos_token: Option<Text>,
    chat_template: Option<Templates>,
}

/// The JSON file `name`, or nothing when there is none.
fn read<T: Default + serde::de::DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = dir.join(name);
    match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(e) => Err(Error::io(&path, e)),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::format(path.display(), e)),
    }
}

impl Said {
    /// Reads `generation_config.json` (or, without one, `config.json`) for the tokens that end a
    /// text, and the chat template.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let own: Generation = read(dir, "generation_config.json")?;
        let ids = match own.eos_token_id {
            Some(ids) => Some(ids),
            None => read::<Generation>(dir, "config.json")?.eos_token_id,
        };
        let stops = match ids {
            None => BTreeSet::new(),
            Some(Ids::One(id)) => BTreeSet::from([id]),
            Some(Ids::Many(ids)) => ids.into_iter().collect(),
        };
        let tokenizer: TokenizerConfig = read(dir, "tokenizer_config.json")?;
        let file = dir.join("chat_template.jinja");
        let template = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&file, e)),
            Err(_) => match tokenizer.chat_template {
                Some(Templates::One(text)) => Some(text),
                Some(Templates::Named(all)) => all
                    .into_iter()
                    .find(|named| named.name == "default")
                    .map(|named| named.template),
                None => None,
            },
        };
        let chat = template.map(|template| Chat {
            template,
            bos: tokenizer.bos_token.map(Text::get).unwrap_or_default(),
            eos: tokenizer.eos_token.map(Text::get).unwrap_or_default(),
        });
        Ok(Said { stops, chat })
    }
}
