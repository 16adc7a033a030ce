//! The routed model that a command is about: which one was asked for, and opening it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lyceum::Name;
use lyceum::backbone::Base;
use lyceum::library::Library;
use lyceum::metrics::RunKey;
use lyceum::mix::Mixing;
use lyceum::model::{Model, Saved};
use lyceum::route::{self, Role, Router, with_setting};
use lyceum::store::Session;

use super::Settings;
use super::model::{self, Options};
use crate::args::{BaseArgs, ModelArgs};
use crate::out;

/// The model that the flags select, checked; nothing large is opened yet.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    args: &'a ModelArgs,
    saved: Option<(&'a Path, Saved)>,
    /// The router.
    pub(crate) spec: Router,
    /// Rule that combines the experts' outputs.
    pub(crate) mixing: Mixing,
}

/// A model that was opened, and the library its experts came from.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) library: Option<Library>,
}

/// Checks the flags and reads the saved model, if one is named.
///
/// # Errors
/// When a flag belongs to a router that was not asked for, or a library comes without a router.
pub(crate) fn chosen<'a>(args: &'a ModelArgs, session: &Session) -> Result<Chosen<'a>> {
    let saved = match &args.model {
        Some(dir) => Some((dir.as_path(), Saved::read(dir)?)),
        None => None,
    };
    let (spec, mixing) = match &saved {
        Some((_, saved)) => (saved.spec, saved.mixing),
        None => spec(args, session)?,
    };
    Ok(Chosen {
        args,
        saved,
        spec,
        mixing,
    })
}

/// The router and mixing the flags name.
fn spec(args: &ModelArgs, session: &Session) -> Result<(Router, Mixing)> {
    let temperature = args.router_temperature.or(args.temperature);
    let knobs = [
        ("--top-k", "top_k", args.top_k.is_some()),
        ("--router-temperature", "temperature", temperature.is_some()),
    ];
    let mut set = knobs.iter().filter(|(_, _, set)| *set);
    let mixing = args.mixing.map_or(Mixing::Outputs, Into::into);
    let base = match &args.router {
        Some(router) => router == "base",
        None => args.library.is_none(),
    };
    if base && !args.members.is_default() {
        bail!(
            "--experts and --include choose among a library's experts: give --router and --library"
        );
    }
    let router = match (&args.router, &args.library) {
        (Some(router), _) => router.as_str(),
        (None, Some(uri)) => implied(uri, args, session)?,
        (None, None) => {
            if let Some((flag, knob, _)) = set.next() {
                bail!(
                    "{flag} without a router: give --router {} and --library",
                    with_setting(knob, " or ")
                );
            }
            if args.mixing.is_some() {
                let names = names();
                bail!("--mixing without a router: give --router ({names}) and --library");
            }
            return Ok((Router::base(), mixing));
        }
    };
    let about = route::about(router)?;
    if let Some((flag, knob, _)) = set.find(|(_, knob, _)| !about.takes(knob)) {
        bail!(
            "{flag} is no setting of the router `{router}`; {} have it",
            with_setting(knob, " and ")
        );
    }
    let spec = Router::of(about)
        .top_k(args.top_k.and_then(|k| k.0))
        .temperature(temperature);
    spec.check()?;
    Ok((spec, mixing))
}

/// The names of all routers.
fn names() -> String {
    let names: Vec<&str> = route::all().iter().map(|about| about.name).collect();
    names.join(", ")
}

/// The router that a library means when none is named: the first in the table whose artifact all of
/// its experts have.
fn implied(uri: &str, args: &ModelArgs, session: &Session) -> Result<&'static str> {
    let library = model::members(&Library::open_with(uri, session)?, &args.members)?;
    let experts = library.names()?;
    for about in route::all() {
        let Some(kind) = about.artifact else { continue };
        let kind = Name::new(kind)?;
        let derived = { experts.iter() }.map(|name| library.is_derived(&kind, name));
        if derived
            .collect::<lyceum::Result<Vec<bool>>>()?
            .iter()
            .all(|has| *has)
        {
            let name = about.name;
            out::say(&format!(
                "using the router `{name}`, derived for every expert of {uri} (--router for another)"
            ));
            return Ok(name);
        }
    }
    bail!(
        "--library {uri} without a router: say with --router how its experts are used ({}); no \
         router's artifact is derived for all of them (`lyceum derive {uri} arrow` does it)",
        names()
    )
}

impl Chosen<'_> {
    /// Returns `true` if every row goes to the expert of its own task.
    pub(crate) fn is_oracle(&self) -> bool {
        self.spec.about().role == Role::Oracle
    }

    /// Returns `true` if the model has no experts.
    pub(crate) fn is_base(&self) -> bool {
        self.spec.is_base()
    }

    /// The subject of the figures.
    pub(crate) fn subject(&self) -> RunKey {
        let place = match (&self.saved, &self.args.library) {
            (Some((dir, _)), _) => dir.display().to_string(),
            (None, Some(uri)) if !self.is_base() => uri.clone(),
            _ => String::new(),
        };
        let mixing = match (self.spec.about().mixes(), self.mixing) {
            (false, _) => "",
            (true, Mixing::Outputs) => "outputs",
            (true, Mixing::Factors) => "factors",
        };
        RunKey {
            method: self.spec.about().name.into(),
            name: self.spec.to_string(),
            spec: self.spec.to_value(),
            library: place,
            mixing: mixing.into(),
        }
    }

    /// The library of the experts.
    ///
    /// # Errors
    /// When none was named, or it cannot be opened.
    pub(crate) fn library(&self, session: &Session) -> Result<Library> {
        if let Some((dir, saved)) = &self.saved {
            return Ok(saved.library(dir)?);
        }
        let uri = self.args.library.as_deref();
        let name = self.spec.about().name;
        let uri = uri.with_context(|| format!("router `{name}` needs --library"))?;
        model::members(&Library::open_with(uri, session)?, &self.args.members)
    }

    /// Opens base and library; `add_bos` chooses whether texts begin with the base's
    /// beginning-of-text token.
    ///
    /// # Errors
    /// When one of them cannot be opened or they do not belong together.
    pub(crate) fn open(&self, settings: &Settings, add_bos: Option<bool>) -> Result<Opened> {
        let options = Options {
            accepts: model::accepts(self.args.allow_other_base),
            add_bos,
        };
        let base = |args: &BaseArgs| model::base_with(args, options, settings);
        let opened = match &self.saved {
            Some((dir, saved)) => self.open_saved(dir, saved, base)?,
            None => self.open_routed(base, &settings.session)?,
        };
        out::warn(opened.model.notes());
        Ok(opened)
    }

    fn open_routed(
        &self,
        base: impl Fn(&BaseArgs) -> Result<Arc<Base>>,
        session: &Session,
    ) -> Result<Opened> {
        let args = &self.args.base;
        if self.is_base() {
            if let Some(library) = &self.args.library {
                let text = format!("the router `base` uses no expert: {library} is not read");
                out::say(&text);
            }
            let model = Model::new(base(args)?);
            return Ok(Opened {
                model,
                library: None,
            });
        }
        let library = self.library(session)?;
        let base = base(args)?;
        let model = Model::routed(base, &library, &self.spec, self.mixing)?;
        Ok(Opened {
            model,
            library: Some(library),
        })
    }

    fn open_saved(
        &self,
        dir: &Path,
        saved: &Saved,
        open: impl Fn(&BaseArgs) -> Result<Arc<Base>>,
    ) -> Result<Opened> {
        let args = &self.args.base;
        let hint = || {
            let dir = dir.display();
            format!("the saved model {dir} (--base says where its base is now)")
        };
        let base = match &args.base {
            Some(_) => open(args)?,
            None => {
                let named = BaseArgs {
                    base: saved.base(dir).with_context(hint)?,
                    precision: args.precision,
                    quantize: args.quantize,
                };
                open(&named).with_context(hint)?
            }
        };
        saved.check_base(dir, &base).with_context(hint)?;
        let library = saved.library(dir)?;
        let model = Model::routed(base, &library, &self.spec, self.mixing)?;
        Ok(Opened {
            model,
            library: (!self.is_base()).then_some(library),
        })
    }
}

/// As [`chosen`], checking what only `generate` can be asked for.
///
/// # Errors
/// When a temperature of sampling is given, or a task to a router that is not told tasks, or none
/// to the oracle.
pub(crate) fn chosen_for<'a>(
    args: &'a ModelArgs,
    task: Option<&str>,
    session: &Session,
) -> Result<Chosen<'a>> {
    if args.temperature.is_some() {
        bail!(
            "text is continued greedily, so there is no --temperature; a router's logits are \
             divided by --router-temperature"
        );
    }
    let chosen = chosen(args, session)?;
    match (chosen.is_oracle(), task) {
        (true, None) => bail!("the oracle goes by the prompt's task: name it with --task-name"),
        (false, Some(_)) => bail!(
            "--task-name is what the oracle is told; the router `{}` is not told tasks",
            chosen.spec.about().name
        ),
        _ => Ok(chosen),
    }
}
