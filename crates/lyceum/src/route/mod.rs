//! Routers: how each token's experts and their weights are chosen.
//!
//! [`Router`] names a router and its settings; [`Router::mixture`] builds the
//! [`Gating`](crate::mix::Gating) itself. Everything that commands, checks, recipes and reports need to know
//! of a router stands in its [`About`], a constant in the router's own file, listed in [`ROUTERS`];
//! [`register`] adds one from outside the crate. A router that needs artifacts cannot be built
//! without them.

mod fixed;
mod gate;
mod oracle;
mod prototype;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

pub use fixed::Fixed;
pub use gate::{TrainedGates, trained_gates};
pub use oracle::Oracle;
pub use prototype::{Prototypes, Score};
pub use table::{About, Build, Inputs, ROUTERS, Role, about, all, register, with_setting};

use crate::error::{Error, Hint, Result};
use crate::expert::{Expert, TargetBase};
use crate::library::Library;
use crate::mix::{Bank, Mixing, Mixture};
use crate::name::Name;

/// A router and its settings.
///
/// ```
/// use lyceum::route::Router;
///
/// let router = Router::arrow().top_k(2);
/// assert_eq!(router.to_string(), "arrow k=2");
/// assert_eq!(router, Router::named("arrow")?.top_k(2));
/// // A setting that a router does not have is refused when the router is built or checked.
/// assert!(Router::uniform().top_k(2).check().is_err());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Router {
    about: &'static About,
    top_k: Option<usize>,
    temperature: Option<f64>,
}

impl PartialEq for Router {
    fn eq(&self, other: &Self) -> bool {
        self.about.name == other.about.name
            && self.top_k == other.top_k
            && self.temperature == other.temperature
    }
}

/// The JSON of a [`Router`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    router: String,
    #[serde(default)]
    top_k: Option<usize>,
    #[serde(default)]
    temperature: Option<f64>,
}

impl<'de> Deserialize<'de> for Router {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(from)?;
        let about = about(&json.router).map_err(serde::de::Error::custom)?;
        Ok(Router {
            top_k: json.top_k,
            temperature: json.temperature.or(about.temperature),
            about,
        })
    }
}

impl Serialize for Router {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(to)
    }
}

impl Router {
    /// The router of this row of the table, with its default settings.
    pub fn of(about: &'static About) -> Self {
        Router {
            about,
            top_k: None,
            temperature: about.temperature,
        }
    }

    /// The frozen base alone.
    pub fn base() -> Self {
        Router::of(&table::BASE)
    }

    /// Each sequence to the expert of its own task.
    pub fn oracle() -> Self {
        Router::of(&oracle::ORACLE)
    }

    /// All experts with equal weights.
    pub fn uniform() -> Self {
        Router::of(&fixed::UNIFORM)
    }

    /// Arrow (arXiv:2405.11157): per token, by prototypes derived from the experts' weights.
    pub fn arrow() -> Self {
        Router::of(&prototype::ARROW)
    }

    /// PhatGOOSE (arXiv:2402.05859): per token, by gates trained after the experts.
    pub fn phatgoose() -> Self {
        Router::of(&prototype::PHATGOOSE)
    }

    /// The router called `name`, with its default settings.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn named(name: &str) -> Result<Self> {
        about(name).map(Router::of)
    }

    /// Sets the number of experts per token; all when unset.
    #[must_use]
    pub fn top_k(mut self, top_k: impl Into<Option<usize>>) -> Self {
        self.top_k = top_k.into();
        self
    }

    /// Sets what divides the logits; the router's own default when unset.
    #[must_use]
    pub fn temperature(mut self, temperature: impl Into<Option<f64>>) -> Self {
        self.temperature = temperature.into().or(self.about.temperature);
        self
    }

    /// Checks that the router has every setting made, and that each is in range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        let given = [
            ("top_k", self.top_k.is_some()),
            ("temperature", self.temperature.is_some()),
        ];
        let stray = |(setting, set): &&(&str, bool)| *set && !self.about.takes(setting);
        if let Some((setting, _)) = given.iter().find(stray) {
            return Err(Error::invalid(format!(
                "router `{}` has no setting `{setting}`; {} have one",
                self.about.name,
                with_setting(setting, " and ")
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::invalid(
                "top_k must be at least 1; leave it out to use all experts",
            ));
        }
        match self.temperature {
            Some(t) if !(t > 0.0 && t.is_finite()) => Err(Error::invalid(format!(
                "temperature {t} must be a number above 0"
            ))),
            _ => Ok(()),
        }
    }

    /// The router's row of the table.
    pub fn about(&self) -> &'static About {
        self.about
    }

    /// Returns `true` for the base alone, which has no expert.
    pub fn is_base(&self) -> bool {
        self.about.role == Role::Base
    }

    /// Experts per token; `None` for all.
    pub fn experts_per_token(&self) -> Option<usize> {
        self.top_k
    }

    /// The specification as JSON: its name under `router`, and every setting it has.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "router": self.about.name });
        if self.about.takes("top_k") {
            value["top_k"] = json!(self.top_k);
        }
        if self.about.takes("temperature") {
            value["temperature"] = json!(self.temperature);
        }
        value
    }

    /// Lowers `top_k` to the number of experts there are: a recipe compares libraries of
    /// different sizes under one setting.
    pub fn limit(&mut self, experts: usize) {
        self.top_k = self.top_k.map(|k| k.min(experts));
    }

    /// Hex SHA-256 over everything of `library` that its mixture is made from: the experts' names,
    /// weights and tasks, and the artifacts this router reads. Equal for the base alone, which
    /// reads nothing.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn inputs(&self, library: &Library) -> Result<String> {
        let mut hash = Sha256::new();
        let library = &library.chosen()?;
        let entries = match self.is_base() {
            true => BTreeMap::new(),
            false => library.entries()?,
        };
        for (name, entry) in entries {
            let artifact = self.about().artifact;
            let artifact = artifact.and_then(|kind| entry.artifacts.get(kind));
            let artifact = artifact.map(|derived| (derived.file.sha256(), &derived.made_from));
            let fields = (&name, &entry.fingerprint, &entry.tasks, artifact);
            let text = serde_json::to_string(&fields).map_err(|e| Error::format("the index", e))?;
            hash.update(text);
        }
        Ok(crate::digest::hex(hash.finalize()))
    }

    /// Builds the mixture of the experts of `library` (merged ones count where they are asked for,
    /// see [`Library::members`]) under this router; `None` for the base.
    ///
    /// # Errors
    /// When the library is empty, an expert does not fit `base`
    /// ([`Expert::check_base`]), `top_k` exceeds it, or
    /// a needed artifact is missing or stale ([`Error::Underived`]).
    pub fn mixture(
        &self,
        library: &Library,
        base: &TargetBase,
        mixing: Mixing,
    ) -> Result<Option<Mixture>> {
        self.check()?;
        let Some(build) = self.about.build else {
            return Ok(None);
        };
        let library = &library.chosen()?;
        let kind = self.about.artifact.map(Name::new).transpose()?;
        let visited = library.visit(kind.as_ref())?;
        let (experts, artifacts): (Vec<_>, Vec<_>) = { visited.into_iter() }
            .map(|visited| (visited.expert, visited.artifact))
            .unzip();
        check(&experts, library, base, self.top_k)?;
        let names = experts.iter().map(|expert| expert.card.name.clone());
        let artifacts = { names.zip(artifacts) }
            .filter_map(|(name, artifact)| Some(artifact?.map(|artifact| (name, artifact))))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let router = build(&Inputs {
            experts: &experts,
            artifacts: &artifacts,
            top_k: self.top_k,
            temperature: self.temperature,
        })?;
        let loras = experts.iter().map(|e| (e.card.name.clone(), &e.loras));
        Ok(Some(Mixture {
            bank: Arc::new(Bank::new(loras)?),
            router,
            mixing,
        }))
    }
}

fn check(
    experts: &[Expert],
    library: &Library,
    base: &TargetBase,
    top_k: Option<usize>,
) -> Result<()> {
    if experts.is_empty() {
        let library = library.uri();
        let text = format!("library {library} holds no expert");
        return Err(Error::invalid(text).hint(Hint::Train { library }));
    }
    if let Some(k) = top_k.filter(|k| *k > experts.len()) {
        let n = experts.len();
        return Err(Error::invalid(format!(
            "top-k {k} is larger than the library, which holds {n} experts; use {n} or all"
        )));
    }
    experts
        .iter()
        .try_for_each(|expert| expert.check_base(base))
}

impl std::fmt::Display for Router {
    /// The router and every setting that was made: `arrow k=4 t=0.1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.about.name)?;
        if let Some(k) = self.top_k {
            write!(f, " k={k}")?;
        }
        match self.temperature {
            Some(t) if self.temperature != self.about.temperature => write!(f, " t={t}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_a_router_does_not_have_are_refused_by_name() {
        for about in ROUTERS {
            for (knob, spec) in [
                ("top_k", Router::of(about).top_k(2).check()),
                ("temperature", Router::of(about).temperature(0.5).check()),
            ] {
                match about.takes(knob) {
                    true => assert!(spec.is_ok(), "{} {knob}", about.name),
                    false => {
                        let error = spec.unwrap_err().to_string();
                        for part in [about.name, knob, "arrow and phatgoose"] {
                            assert!(error.contains(part), "{error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn labels_show_what_was_set() {
        let arrow = Router::arrow();
        for (router, label) in [
            (Router::uniform(), "uniform"),
            (arrow.top_k(2), "arrow k=2"),
            (arrow.top_k(2).temperature(1.0), "arrow k=2"),
            (arrow.top_k(4).temperature(0.1), "arrow k=4 t=0.1"),
            (Router::phatgoose().temperature(1.0), "phatgoose t=1"),
        ] {
            assert_eq!(router.to_string(), label);
        }
    }

    #[test]
    fn every_router_has_its_row() {
        for about in ROUTERS {
            let top_k = about.takes("top_k").then_some(2);
            let spec = Router::named(about.name).unwrap().top_k(top_k);
            assert_eq!(spec.about().name, about.name);
            let json = serde_json::to_value(spec).unwrap();
            assert_eq!(spec.to_value(), json);
            assert_eq!(json["router"], about.name);
            assert_eq!(serde_json::from_value::<Router>(json).unwrap(), spec);
        }
        let error = Router::named("arow").unwrap_err().to_string();
        assert!(error.contains("did you mean arrow"), "{error}");
        assert!(Router::arrow().top_k(0).check().is_err());
        assert!(Router::arrow().temperature(0.0).check().is_err());
        let stray = r#"{"router":"arrow","topk":2}"#;
        assert!(serde_json::from_str::<Router>(stray).is_err());
    }
}
