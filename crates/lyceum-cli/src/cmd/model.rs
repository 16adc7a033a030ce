//! Opening bases and models; save and generate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use lyceum::Name;
use lyceum::backbone::{Base, Message, Place};
use lyceum::data::{Dataset, Question};
use lyceum::library::Library;
use lyceum::mix::Mixing;
use lyceum::model::{Decoding, Model};
use lyceum::route::RouterSpec;
use lyceum::store::{Wanted, fetched};

use crate::args::{BaseArgs, MembersArgs, ModelArgs};
use crate::out::{self, Format};

/// The base asked for, or the one shipped, to compute on `device`.
pub(crate) fn base(args: &BaseArgs, device: &Device) -> Result<Arc<Base>> {
    let place = Place::new(args.kept(), device);
    Ok(Arc::new(match &args.base {
        Some(dir) => Base::open(&fetched(dir, Wanted::Base)?, place)?,
        None => {
            out::say("using the embedded base (--base DIR for another)");
            lyceum::assets::base(place)?
        }
    }))
}

/// The data asked for, or the tasks shipped.
pub(crate) fn data(path: Option<&Path>) -> Result<Dataset> {
    match path {
        Some(path) => Ok(Dataset::open(path)?),
        None => Ok(lyceum::assets::tasks()?),
    }
}

/// Multiple-choice questions: `arc-easy` shipped, or a file.
pub(crate) fn questions(name: &Path) -> Result<Vec<Question>> {
    match name.to_str() {
        Some("arc-easy") => Ok(lyceum::assets::arc_easy()?),
        _ => Ok(Question::open(name)?),
    }
}

/// The router and mixing asked for.
pub(crate) fn spec(args: &ModelArgs) -> Result<(RouterSpec, Mixing)> {
    let spec = RouterSpec::new(&args.router, args.top_k.0, args.temperature)?;
    Ok((spec, args.mixing.into()))
}

/// The model asked for: a saved one, the base alone, or a router over a library.
pub(crate) fn model(args: &ModelArgs, device: &Device) -> Result<Model> {
    let counts = !args.members.is_default();
    if let Some(dir) = &args.model {
        if counts {
            bail!(
                "a saved model routes over the experts it was saved with; leave out --experts and --include"
            );
        }
        let saved = Model::saved_base(dir)?.map(Into::into);
        let chosen = BaseArgs {
            base: args.base.base.clone().or(saved),
            precision: args.base.precision,
            quantize: args.base.quantize,
        };
        return Ok(Model::open(dir, base(&chosen, device)?)?);
    }
    let (spec, mixing) = spec(args)?;
    let base = base(&args.base, device)?;
    if matches!(spec, RouterSpec::Base {}) {
        if counts {
            bail!(
                "--experts and --include choose among a library's experts, and the base alone has none; say which --router"
            );
        }
        return Ok(Model::new(base, None));
    }
    Ok(Model::routed(base, &library(args)?, &spec, mixing)?)
}

fn library(args: &ModelArgs) -> Result<Library> {
    let uri = args.library.as_deref();
    let uri = uri.with_context(|| format!("router `{}` needs --library", args.router))?;
    members(&Library::open(uri)?, &args.members)
}

/// The experts of `library` that count.
pub(crate) fn members(library: &Library, args: &MembersArgs) -> Result<Library> {
    let chosen = library.members(&args.which()?);
    let hint = |error| match error {
        lyceum::Error::Invalid(text) => {
            anyhow::anyhow!("{text}; --include merged counts them, --experts NAME,… names some")
        }
        other => other.into(),
    };
    chosen.map_err(hint)
}

pub(crate) fn save(args: &ModelArgs, out: &Path) -> Result<()> {
    let (spec, mixing) = spec(args)?;
    let base = base(&args.base, &Device::Cpu)?;
    Ok(Model::save(
        out,
        &library(args)?,
        (&base, args.base.base.as_deref()),
        spec,
        mixing,
    )?)
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
