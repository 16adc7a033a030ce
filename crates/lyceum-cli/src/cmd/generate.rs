//! Continuing a prompt.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lyceum::Name;
use lyceum::backbone::{Base, Chat, Message};
use lyceum::generate::{GenerationConfig, Prompt};
use lyceum::model::Model;

use super::Settings;
use super::routed;
use crate::args::GenerateArgs;
use crate::out::{self, Format};

impl GenerateArgs {
    /// The token ids of the prompt: all of them, or the last of a text that is too long.
    fn ids(&self, base: &Base) -> Result<Vec<u32>> {
        let positions = base.decoder.config().max_position_embeddings;
        if self.chat {
            // The template itself writes what stands before a text.
            let ids = base.tokenizer.encode(&self.conversation(&base.chat)?)?;
            ensure!(
                ids.len() <= positions,
                "the conversation has {} tokens and the base {positions} positions; shorten it",
                ids.len()
            );
            return Ok(ids);
        }
        let ids = base.tokenizer.text(&self.prompt, usize::MAX)?;
        if ids.len() <= positions {
            return Ok(ids);
        }
        // Some of it is lost in any case: new tokens have their room, at most half.
        let room = positions - self.max_new.min(positions / 2);
        let kept = base.tokenizer.text(&self.prompt, room)?;
        ensure!(
            kept.len() <= room,
            "the base's {positions} positions have no room for a prompt"
        );
        out::say(&format!(
            "the prompt has {} tokens and the base {positions} positions: only its last {} tokens \
             are continued, the first {} are left out",
            ids.len(),
            kept.len(),
            ids.len() - kept.len()
        ));
        Ok(kept)
    }

    /// The prompt as a conversation, by one of the base's templates or a file.
    fn conversation(&self, chat: &Chat) -> Result<String> {
        let message = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
        };
        let system = { self.system.iter() }.map(|text| message("system", text));
        let messages: Vec<Message> = system.chain([message("user", &self.prompt)]).collect();
        let Some(wanted) = self.chat_template.as_deref() else {
            let hint = match chat.is_empty() {
                true => "leave --chat out, or give a template's file with --chat-template FILE",
                false => "choose one with --chat-template NAME",
            };
            let source = chat.template("default");
            let source = source.map_err(|error| anyhow::anyhow!("{error}; {hint}"))?;
            return Ok(chat.render(source, &messages)?);
        };
        if let Ok(source) = chat.template(wanted) {
            return Ok(chat.render(source, &messages)?);
        }
        let file = Path::new(wanted);
        if !file.is_file() {
            let why = chat.template(wanted).err().map(|error| error.to_string());
            bail!(
                "{}; and there is no file of that name",
                why.unwrap_or_default()
            );
        }
        let source = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        chat.render(&source, &messages)
            .with_context(|| file.display().to_string())
    }
}

pub(crate) fn generate(args: &GenerateArgs, settings: &Settings) -> Result<()> {
    let format = settings.format;
    let task = args.task_name.as_deref();
    let chosen = routed::chosen_for(&args.model, task, &settings.session)?;
    let model = chosen.open(settings, args.add_bos)?.model;
    let ids = args.ids(model.base())?;
    let max_new = room(&model, ids.len(), args.max_new);
    let mut prompt = Prompt::from(ids);
    if let Some(task) = &args.task_name {
        prompt = prompt.task(Name::new(task)?);
    }
    let config = GenerationConfig::default().max_new_tokens(max_new);
    let streaming = format == Format::Text;
    let mut shown = Ok(());
    let all = model.generate(&[prompt], &config, |chunk| {
        if streaming {
            shown = out::stream(chunk.text);
        }
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    shown?;
    if streaming {
        return out::stream("\n");
    }
    let text: String = all.iter().map(|one| one.text.as_str()).collect();
    let tokens: usize = all.iter().map(|one| one.tokens.len()).sum();
    let value = serde_json::json!({ "prompt": args.prompt, "text": text, "tokens": tokens });
    out::show(format, &value, |_| String::new())
}

/// New tokens there is room for after a prompt of `n`; fewer than `wanted` is said.
fn room(model: &Model, n: usize, wanted: usize) -> usize {
    let positions = model.base().decoder.config().max_position_embeddings;
    // The last token is not computed from, so it needs no position.
    let room = (positions + 1).saturating_sub(n);
    if wanted > room {
        out::say(&format!(
            "the prompt has {n} tokens and the base {positions} positions: at most {room} new \
             tokens, not {wanted}"
        ));
    }
    wanted.min(room)
}
