//! The table of routers: one row each, and what the rest of the house asks of it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{fixed, oracle, prototype};
use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::expert::Expert;
use crate::mix::Gating;
use crate::name::Name;

/// The part a router plays where methods are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The frozen base, without experts.
    Base,
    /// Told the task of each sequence: an upper bound, and of no use where tasks are unknown.
    Oracle,
    /// The same weights for every token: what routing has to beat.
    Fixed,
    /// Decides token by token.
    PerToken,
}

/// The inputs that a router is built from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The experts, in the order of the gates.
    pub experts: &'a [Expert],
    /// The artifact of [`About::artifact`] of each expert; empty for routers that need none.
    pub artifacts: &'a BTreeMap<Name, Artifact>,
    /// Experts per token; all when absent.
    pub top_k: Option<usize>,
    /// Divides the logits; absent where the router has its own default.
    pub temperature: Option<f64>,
}

/// Builds a router.
pub type Build = fn(&Inputs<'_>) -> Result<Arc<dyn Gating>>;

/// One row of the table of routers.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name on the command line, in JSON and in reports.
    pub name: &'static str,
    /// One line on the rule by which it decides.
    pub what: &'static str,
    /// The paper that introduced it.
    pub paper: &'static str,
    /// The part it plays where methods are compared.
    pub role: Role,
    /// The kind of artifact it needs of every expert, if any.
    pub artifact: Option<&'static str>,
    /// The settings it takes: `top_k`, `temperature`.
    pub settings: &'static [&'static str],
    /// Divides the logits when no temperature is set; absent where it depends on the width.
    pub temperature: Option<f64>,
    /// Builds it; absent for the base alone.
    pub build: Option<Build>,
}

impl About {
    /// Returns `true` if it takes `setting`.
    pub fn takes(&self, setting: &str) -> bool {
        self.settings.contains(&setting)
    }

    /// Returns `true` if it combines experts, so that the way of mixing them matters.
    pub fn mixes(&self) -> bool {
        matches!(self.role, Role::Fixed | Role::PerToken)
    }
}

/// The frozen base alone.
pub(super) const BASE: About = About {
    name: "base",
    what: "the frozen base, no expert",
    paper: "-",
    role: Role::Base,
    artifact: None,
    settings: &[],
    temperature: None,
    build: None,
};

/// The routers that come with Lyceum.
pub const ROUTERS: &[&About] = &[
    &BASE,
    &oracle::ORACLE,
    &fixed::UNIFORM,
    &prototype::ARROW,
    &prototype::PHATGOOSE,
];

static REGISTERED: RwLock<Vec<&'static About>> = RwLock::new(Vec::new());

/// Adds a router to the table of this process: it can then be named in specifications, recipes and
/// commands like those of [`ROUTERS`].
///
/// # Errors
/// [`Error::Exists`] when a router of that name is there.
///
/// ```
/// use std::sync::Arc;
/// use lyceum::route::{self, About, Fixed, Role, Router};
///
/// static FIRST: About = About {
///     name: "first",
///     what: "the first expert alone",
///     paper: "-",
///     role: Role::Fixed,
///     artifact: None,
///     settings: &[],
///     temperature: None,
///     build: Some(|inputs| {
///         let weights: Vec<f32> = (0..inputs.experts.len()).map(|i| f32::from(i == 0)).collect();
///         Ok(Arc::new(Fixed::new(&weights)))
///     }),
/// };
/// route::register(&FIRST)?;
/// assert_eq!(Router::named("first")?.to_string(), "first");
/// # Ok::<(), lyceum::Error>(())
/// ```
pub fn register(about: &'static About) -> Result<()> {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if ROUTERS
        .iter()
        .chain(registered.iter())
        .any(|other| other.name == about.name)
    {
        return Err(Error::Exists {
            kind: "router",
            name: about.name.into(),
        });
    }
    registered.push(about);
    Ok(())
}

/// Every router there is: those of [`ROUTERS`], then those registered.
pub fn all() -> Vec<&'static About> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    ROUTERS.iter().chain(registered.iter()).copied().collect()
}

/// The row of the router called `name`.
///
/// # Errors
/// [`Error::NotFound`] with the nearest names.
pub fn about(name: &str) -> Result<&'static About> {
    let all = all();
    let found = all.iter().find(|about| about.name == name).copied();
    found.ok_or_else(|| Error::not_found("router", name, all.iter().map(|about| about.name)))
}

/// The names of the routers that take `setting`, joined by `between`.
pub fn with_setting(setting: &str, between: &str) -> String {
    let all = all();
    let with = all.iter().filter(|about| about.takes(setting));
    let names: Vec<&str> = with.map(|about| about.name).collect();
    names.join(between)
}
