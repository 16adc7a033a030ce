//! Continuing text: prompts in, text out as it comes.

mod decode;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::data::TextStream;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::name::Name;

/// Settings of greedy text generation.
///
/// ```
/// use lyceum::generate::GenerationConfig;
///
/// let config = GenerationConfig::default().max_new_tokens(64).batch_size(8);
/// assert_eq!(config.max_input_tokens, 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// Most new tokens per prompt.
    #[serde(rename = "max_new", alias = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// Longest prompt in tokens; the left end of a longer one is cut off.
    #[serde(rename = "max_input", alias = "max_input_tokens")]
    pub max_input_tokens: usize,
    /// Prompts continued together; results do not depend on it.
    #[serde(rename = "batch", alias = "batch_size")]
    pub batch_size: usize,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            max_new_tokens: 128,
            max_input_tokens: 1024,
            batch_size: 32,
        }
    }
}

impl GenerationConfig {
    /// Sets the most new tokens per prompt.
    #[must_use]
    pub fn max_new_tokens(mut self, tokens: usize) -> Self {
        self.max_new_tokens = tokens;
        self
    }

    /// Sets the longest prompt in tokens.
    #[must_use]
    pub fn max_input_tokens(mut self, tokens: usize) -> Self {
        self.max_input_tokens = tokens;
        self
    }

    /// Sets how many prompts are continued together.
    #[must_use]
    pub fn batch_size(mut self, prompts: usize) -> Self {
        self.batch_size = prompts;
        self
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first value out of range.
    pub fn check(&self) -> Result<()> {
        let values = [
            ("max_new", self.max_new_tokens),
            ("max_input", self.max_input_tokens),
            ("batch", self.batch_size),
        ];
        match values.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::invalid(format!("{name} must be at least 1"))),
            None => Ok(()),
        }
    }

    /// The limits that a base of so many positions has room for: new tokens take at most half of
    /// them, and prompts the rest.
    #[must_use]
    pub fn within(&self, positions: usize) -> Self {
        let max_new_tokens = self.max_new_tokens.min(positions / 2).max(1);
        GenerationConfig {
            max_new_tokens,
            max_input_tokens: { self.max_input_tokens }
                .min(positions.saturating_sub(max_new_tokens)),
            batch_size: self.batch_size,
        }
    }
}

/// A text or tokens to continue, with the task that an oracle is told.
///
/// ```
/// use lyceum::prelude::*;
///
/// let asked = Prompt::from("Question: what do bees make?\nAnswer:").task(Name::new("facts")?);
/// let tokens = Prompt::from(vec![1, 5, 8]);
/// assert_ne!(asked, tokens);
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    content: Content,
    task: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompt {
    /// Names the task of the prompt, by which the oracle routes.
    #[must_use]
    pub fn task(mut self, task: Name) -> Self {
        self.task = Some(task);
        self
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt {
            content: Content::Text(text.into()),
            task: None,
        }
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Prompt {
            content: Content::Tokens(tokens),
            task: None,
        }
    }
}

/// A piece of what is generated, as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk<'a> {
    /// The place of its prompt among all.
    pub prompt: usize,
    /// The token, or `None` in the last chunk of a prompt.
    pub token: Option<u32>,
    /// The text that the token completes: whole characters, empty while one is unfinished.
    pub text: &'a str,
    /// The reason why the text ends, in the last chunk of a prompt.
    pub finish: Option<FinishReason>,
}

/// A sink that lets every text run to its end.
pub fn ignore(_: Chunk<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The reason why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It has as many tokens as were asked for, or as there are positions.
    Length,
    /// The receiver of chunks broke off.
    Cancelled,
}

/// The continuation of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Generation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// The reason why it ends.
    pub finish: FinishReason,
    /// The tokens of the prompt that were read.
    pub prompt_tokens: usize,
}

impl Model {
    /// Continues `prompts`, [`GenerationConfig::batch_size`] at a time: one that ends makes room
    /// for the next. What comes out does not depend on what is decoded beside it. `sink` sees every
    /// chunk as it comes, and breaks off everything by returning [`ControlFlow::Break`]; what there
    /// is until then is returned.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use std::sync::Arc;
    /// use lyceum::prelude::*;
    ///
    /// let base = Arc::new(lyceum::assets::base(Precision::F32)?);
    /// let model = Model::new(base);
    /// let config = GenerationConfig::default().max_new_tokens(8);
    /// let mut streamed = String::new();
    /// let all = model.generate(&["Question: what do bees make?\nAnswer:".into()], &config, |chunk| {
    ///     streamed += chunk.text;
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(all[0].text, streamed);
    /// # Ok::<(), lyceum::Error>(())
    /// ```
    ///
    /// # Errors
    /// When a setting is out of range, a prompt is empty, has more tokens than the base has
    /// positions, or the router cannot decide.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        config: &GenerationConfig,
        mut sink: impl FnMut(Chunk<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>> {
        config.check()?;
        let tokenizer = &self.base().tokenizer;
        let ids: Vec<Vec<u32>> = { prompts.iter() }
            .map(|prompt| match &prompt.content {
                Content::Text(text) => tokenizer.text(text, config.max_input_tokens),
                Content::Tokens(ids) => Ok(ids.clone()),
            })
            .collect::<Result<_>>()?;
        let tasks: Vec<Name> = prompts.iter().filter_map(|p| p.task.clone()).collect();
        let mut streams: Vec<TextStream<'_>> = vec![TextStream::new(tokenizer); prompts.len()];
        let mut ends = vec![FinishReason::Cancelled; prompts.len()];
        let mut failed = None;
        let tokens = self.generate_tokens(&ids, &tasks, config, |chunk| {
            ends[chunk.prompt] = chunk.finish.unwrap_or(ends[chunk.prompt]);
            let stream = &mut streams[chunk.prompt];
            let text = match chunk.token {
                Some(token) => stream.push(token),
                None => std::mem::replace(stream, TextStream::new(tokenizer)).finish(),
            };
            match text {
                Ok(text) => sink(Chunk {
                    text: &text,
                    ..chunk
                }),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let whole = |((tokens, finish), ids): ((Vec<u32>, FinishReason), &Vec<u32>)| {
            Ok(Generation {
                text: tokenizer.decode(&tokens)?,
                tokens,
                finish,
                prompt_tokens: ids.len(),
            })
        };
        tokens.into_iter().zip(ends).zip(&ids).map(whole).collect()
    }
}
