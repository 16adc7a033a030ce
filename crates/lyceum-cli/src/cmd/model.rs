//! Opening bases and models, and saving models.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use lyceum::backbone::{Base, LoadOptions};
use lyceum::data::{Dataset, Question};
use lyceum::expert::BaseMatch;
use lyceum::library::Library;
use lyceum::model::{Model, SaveConfig};
use lyceum::recipe::is_arc_easy;
use lyceum::store::{Session, Wanted, fetched_with};

use super::{Settings, routed};
use crate::args::{BaseArgs, MembersArgs, ModelArgs};
use crate::out;

/// The base asked for, or the one shipped, to compute on the device of `settings`.
pub(crate) fn base(args: &BaseArgs, settings: &Settings) -> Result<Arc<Base>> {
    base_with(args, Options::default(), settings)
}

/// Arguments that select and open a base.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Which experts it accepts.
    pub(crate) accepts: BaseMatch,
    /// Overrides the tokenizer's own setting for a beginning-of-text token.
    pub(crate) add_bos: Option<bool>,
}

/// The same, with options.
pub(crate) fn base_with(
    args: &BaseArgs,
    options: Options,
    settings: &Settings,
) -> Result<Arc<Base>> {
    let place = LoadOptions::new(args.kept(), &settings.device);
    let mut base = match &args.base {
        Some(dir) => opened(dir, place, &settings.session)?,
        None => {
            out::say("using the embedded base (--base DIR for another)");
            lyceum::assets::base(place)?
        }
    };
    if let Some(add) = options.add_bos {
        base.tokenizer.add_bos(add).context("--add-bos")?;
    }
    doubts(&base);
    Ok(Arc::new(base.accepting(options.accepts)))
}

/// Says what is doubtful about the tokens before a text.
pub(crate) fn doubts(base: &Base) {
    for note in base.tokenizer.notes() {
        out::say(&format!(
            "warning: {note} (eval and generate: --add-bos true|false)"
        ));
    }
}

/// Which experts a base accepts under `--allow-other-base`, or without it.
pub(crate) fn accepts(allow_other_base: bool) -> BaseMatch {
    match allow_other_base {
        true => BaseMatch::Family,
        false => BaseMatch::Exact,
    }
}

/// Opens a base and says what its owner may not expect.
pub(crate) fn opened(path: &Path, place: LoadOptions, session: &Session) -> Result<Base> {
    let base = Base::open(&fetched_with(path, Wanted::Base, session)?, place)?;
    out::warn(&base.notes);
    Ok(base)
}

/// The data asked for, or the tasks shipped. What was left out of it is said.
pub(crate) fn data(path: Option<&Path>, session: &Session) -> Result<Dataset> {
    let Some(path) = path else {
        return Ok(lyceum::assets::tasks()?);
    };
    let data = Dataset::open_with(path, session)?;
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

pub(crate) fn save(args: &ModelArgs, out: &Path, settings: &Settings) -> Result<()> {
    ensure!(
        args.model.is_none(),
        "--model is saved already; copy its folder, or save a router over a library"
    );
    let chosen = routed::chosen(args, &settings.session)?;
    ensure!(
        !chosen.is_base(),
        "there is nothing to save of the base alone; give --library and --router (oracle, uniform, \
         arrow or phatgoose)"
    );
    let library = chosen.library(&settings.session)?;
    let options = Options {
        accepts: accepts(args.allow_other_base),
        ..Options::default()
    };
    let base = base_with(&args.base, options, &settings.on(Device::Cpu))?;
    let config = SaveConfig::default()
        .mixing(chosen.mixing)
        .base_path(args.base.base.clone());
    Model::save(out, &library, &base, chosen.spec, &config)?;
    out::wrote(settings.format, &[&out.join("model.json")])
}
