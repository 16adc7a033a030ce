//! Opening bases and models; save and generate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use lyceum::Name;
use lyceum::backbone::{Base, Message, Place};
use lyceum::data::{Dataset, Question};
use lyceum::expert::BaseMatch;
use lyceum::model::{Decoding, Model};
use lyceum::recipe::is_arc_easy;
use lyceum::store::{Wanted, fetched};

use super::routed;
use crate::args::{BaseArgs, ModelArgs};
use crate::out::{self, Format};

/// The base asked for, or the one shipped, to compute on `device`.
pub(crate) fn base(args: &BaseArgs, device: &Device) -> Result<Arc<Base>> {
    base_accepting(args, BaseMatch::Exact, device)
}

/// The same, accepting experts as `accepts` says.
pub(crate) fn base_accepting(
    args: &BaseArgs,
    accepts: BaseMatch,
    device: &Device,
) -> Result<Arc<Base>> {
    let place = Place::new(args.kept(), device);
    let base = match &args.base {
        Some(dir) => opened(dir, place)?,
        None => {
            out::say("using the embedded base (--base DIR for another)");
            lyceum::assets::base(place)?
        }
    };
    Ok(Arc::new(base.accepting(accepts)))
}

/// Which experts a base accepts under `--allow-other-base`, or without it.
pub(crate) fn accepts(allow_other_base: bool) -> BaseMatch {
    match allow_other_base {
        true => BaseMatch::Family,
        false => BaseMatch::Exact,
    }
}

/// Opens a base and says what its owner may not expect.
pub(crate) fn opened(path: &Path, place: Place) -> Result<Base> {
    let base = Base::open(&fetched(path, Wanted::Base)?, place)?;
    out::warn(&base.notes);
    Ok(base)
}

/// The data asked for, or the tasks shipped. What was left out of it is said.
pub(crate) fn data(path: Option<&Path>) -> Result<Dataset> {
    let Some(path) = path else {
        return Ok(lyceum::assets::tasks()?);
    };
    let data = Dataset::open(path)?;
    for note in &data.notes {
        out::say(&format!("{}: {note}", path.display()));
    }
    Ok(data)
}

/// Multiple-choice questions: `arc-easy` shipped, or a file.
pub(crate) fn questions(path: &Path) -> Result<Vec<Question>> {
    match is_arc_easy(path) {
        true => Ok(lyceum::assets::arc_easy()?),
        false => Ok(Question::open(path)?),
    }
}

/// The model asked for: a saved one, the base alone, or a router over a library.
pub(crate) fn model(args: &ModelArgs, device: &Device) -> Result<Model> {
    Ok(routed::chosen(args)?.open(device)?.model)
}

pub(crate) fn save(args: &ModelArgs, out: &Path) -> Result<()> {
    ensure!(
        args.model.is_none(),
        "--model is saved already; copy its folder, or save a router over a library"
    );
    let chosen = routed::chosen(args)?;
    ensure!(
        !chosen.is_base(),
        "there is nothing to save of the base alone; give --library and --router (oracle, uniform, \
         arrow or phatgoose)"
    );
    let library = chosen.library()?;
    let accepts = accepts(args.allow_other_base);
    let base = base_accepting(&args.base, accepts, &Device::Cpu)?;
    Model::save(
        out,
        &library,
        (&base, args.base.base.as_deref()),
        chosen.spec,
        chosen.mixing,
    )?;
    out::say(&format!("saved as {}", out.join("model.json").display()));
    Ok(())
}

/// What to continue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Prompt<'a> {
    /// A text as it is.
    Text(&'a str),
    /// What a user says, after what the system says.
    Chat(&'a str, Option<&'a str>),
}

impl<'a> Prompt<'a> {
    fn said(self) -> &'a str {
        match self {
            Prompt::Text(text) | Prompt::Chat(text, _) => text,
        }
    }

    /// The token ids, the left end of a text cut off beyond `room`.
    fn ids(self, base: &Base, room: usize) -> Result<Vec<u32>> {
        let (text, system) = match self {
            Prompt::Text(text) => return Ok(base.tokenizer.text(text, room)?),
            Prompt::Chat(text, system) => (text, system),
        };
        let chat = base.chat.as_ref().context(
            "this base has no chat template (chat_template.jinja, or chat_template in \
             tokenizer_config.json); leave --chat out",
        )?;
        let message = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
        };
        let system = system.map(|text| message("system", text));
        let messages: Vec<Message> = system.into_iter().chain([message("user", text)]).collect();
        // The template itself writes what stands before a text.
        let ids = base.tokenizer.encode(&chat.prompt(&messages)?)?;
        anyhow::ensure!(
            ids.len() <= room,
            "the conversation has {} tokens, and there is room for {room}; lower --max-new or \
             shorten it",
            ids.len()
        );
        Ok(ids)
    }
}

pub(crate) fn generate(
    (args, device): (&ModelArgs, &Device),
    prompt: Prompt<'_>,
    task: Option<&str>,
    max_new: usize,
    format: Format,
) -> Result<()> {
    let model = model(args, device)?;
    let tokenizer = &model.base().tokenizer;
    let positions = model.base().decoder.config().max_position_embeddings;
    let ids = prompt.ids(model.base(), positions.saturating_sub(max_new).max(1))?;
    let tasks: Vec<Name> = task.map(Name::new).transpose()?.into_iter().collect();
    let (mut new, mut shown) = (Vec::new(), 0);
    let mut failed = None;
    let how = Decoding { max_new, live: 1 };
    model.generate(&[ids], &tasks, &how, |_, token| {
        new.push(token);
        match tokenizer.decode(&new) {
            // A character may take several tokens: show only what is whole.
            Ok(text) if format == Format::Text && !text.ends_with('\u{fffd}') => {
                out::stream(text.get(shown..).unwrap_or_default());
                shown = text.len();
            }
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let text = tokenizer.decode(&new)?;
    match format {
        Format::Text => out::stream("\n"),
        Format::Json => {
            let value =
                serde_json::json!({ "prompt": prompt.said(), "text": text, "tokens": new.len() });
            out::show(format, &value, |_| String::new())?;
        }
    }
    Ok(())
}
