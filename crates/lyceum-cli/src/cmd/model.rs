//! Opening bases and models, and saving models.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use lyceum::backbone::{Base, Place};
use lyceum::data::{Dataset, Question};
use lyceum::library::Library;
use lyceum::mix::Mixing;
use lyceum::model::Model;
use lyceum::route::RouterSpec;
use lyceum::store::{Wanted, fetched};

use crate::args::{BaseArgs, ModelArgs};
use crate::out;

/// The base asked for, or the one shipped, to compute on `device`.
pub(crate) fn base(args: &BaseArgs, device: &Device) -> Result<Arc<Base>> {
    opened(args, device, None)
}

/// The same; `add_bos` chooses whether texts begin with its beginning-of-text token.
fn opened(args: &BaseArgs, device: &Device, add_bos: Option<bool>) -> Result<Arc<Base>> {
    let place = Place::new(args.kept(), device);
    let mut base = match &args.base {
        Some(dir) => Base::open(&fetched(dir, Wanted::Base)?, place)?,
        None => {
            out::say("using the embedded base (--base DIR for another)");
            lyceum::assets::base(place)?
        }
    };
    if let Some(add) = add_bos {
        base.tokenizer.add_bos(add).context("--add-bos")?;
    }
    doubts(&base);
    Ok(Arc::new(base))
}

/// Says what is doubtful about the tokens before a text.
pub(crate) fn doubts(base: &Base) {
    for note in base.tokenizer.notes() {
        out::say(&format!(
            "warning: {note} (eval and generate: --add-bos true|false)"
        ));
    }
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
    reading(args, device, None)
}

/// The same; `add_bos` chooses whether texts begin with the base's beginning-of-text token.
pub(crate) fn reading(args: &ModelArgs, device: &Device, add_bos: Option<bool>) -> Result<Model> {
    if let Some(dir) = &args.model {
        let saved = Model::saved_base(dir)?.map(Into::into);
        let chosen = BaseArgs {
            base: args.base.base.clone().or(saved),
            precision: args.base.precision,
            quantize: args.base.quantize,
        };
        return Ok(Model::open(dir, opened(&chosen, device, add_bos)?)?);
    }
    let (spec, mixing) = spec(args)?;
    let base = opened(&args.base, device, add_bos)?;
    if matches!(spec, RouterSpec::Base {}) {
        return Ok(Model::new(base, None));
    }
    Ok(Model::routed(base, &library(args)?, &spec, mixing)?)
}

fn library(args: &ModelArgs) -> Result<Library> {
    let uri = args.library.as_deref();
    let uri = uri.with_context(|| format!("router `{}` needs --library", args.router))?;
    Ok(Library::open(uri)?)
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
