//! Conversations as the text a base was trained on: Jinja templates, as transformers renders them.

mod files;
mod json;
mod source;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub(super) use files::Said;

/// Steps a template may take; a template comes from outside and must end.
const FUEL: u64 = 10_000_000;

/// The name of the template used when none is asked for.
pub(super) const DEFAULT: &str = "default";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

/// The chat templates of a base and the special tokens they may write.
///
/// Templates see what transformers hands them: `messages`, `add_generation_prompt`, the special
/// tokens by name (`bos_token`, ...; undefined where a base has none), and `tools` and `documents`,
/// which are none. `strftime_now` is left undefined: templates that ask for the date then use the
/// one they were written with, and a prompt is the same every day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chat {
    templates: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
}

impl Chat {
    /// Templates by name, and special tokens by theirs.
    pub(super) fn new(
        templates: BTreeMap<String, String>,
        tokens: BTreeMap<String, String>,
    ) -> Self {
        Chat { templates, tokens }
    }

    /// The base has no template.
    pub fn is_empty(&self) -> bool {
        self.templates.is_empty()
    }

    /// The names of the templates, sorted; a base's only one is usually `default`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The source of the template `name`.
    ///
    /// # Errors
    /// When there is none of that name; the error lists those there are.
    pub fn template(&self, name: &str) -> Result<&str> {
        let found = self.templates.get(name).map(String::as_str);
        found.ok_or_else(|| {
            let names: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
            Error::invalid(match names.as_slice() {
                [] => "this base has no chat template (chat_template.jinja, or chat_template in \
                       tokenizer_config.json)"
                    .into(),
                names => format!(
                    "this base has no chat template `{name}`; it has {}",
                    names.join(", ")
                ),
            })
        })
    }

    /// The prompt that asks for the answer to `messages`, by the template `default`.
    ///
    /// # Errors
    /// When there is no such template, it fails, or it refuses the conversation (some allow no
    /// system message).
    pub fn prompt(&self, messages: &[Message]) -> Result<String> {
        self.render(self.template(DEFAULT)?, messages)
    }

    /// The prompt that asks for the answer to `messages`, by the template `source`.
    ///
    /// # Errors
    /// When the template fails or refuses the conversation.
    pub fn render(&self, source: &str, messages: &[Message]) -> Result<String> {
        let bad = |e: minijinja::Error| {
            let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
            let line = e.line().map(|n| format!(" (line {n})")).unwrap_or_default();
            Error::format("chat template", format!("{}{detail}{line}", e.kind()))
        };
        let env = environment().map_err(bad)?;
        let source = source::read(source);
        let template = env.template_from_str(&source).map_err(bad)?;
        let turn = |m: &Message| {
            let fields = [("role", &m.role), ("content", &m.content)];
            Value::from_pairs(fields.map(|(name, text)| (name, text.as_str())))
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let fixed = [
            ("messages", Value::from(turns)),
            ("add_generation_prompt", Value::from(true)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let tokens = self.tokens.iter();
        let tokens = tokens.map(|(name, text)| (name.as_str(), Value::from(text.as_str())));
        template
            .render(Value::from_pairs(tokens.chain(fixed)))
            .map_err(bad)
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()?;
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
    let left = AtomicUsize::new(json::MOST);
    env.add_filter("tojson", move |args: Rest<ValueOrKwargs>| {
        json::tojson(args, &left)
    });
    Ok(env)
}

#[cfg(test)]
mod tests;
