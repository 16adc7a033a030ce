//! Routers: what decides which expert sees which token.
//!
//! A router's *specification* is the closed enum [`RouterSpec`] plus the table [`ROUTERS`], from
//! which help and docs are made; the *thing* is a [`Router`]. A router that
//! needs prototypes cannot be built without them.

mod fixed;
mod gate;
mod oracle;
mod prototype;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use fixed::Fixed;
pub use gate::{TrainedGates, trained_gates};
pub use oracle::Oracle;
pub use prototype::{Prototypes, Score};

use crate::error::{Error, Result};
use crate::expert::{Expert, Host};
use crate::library::Library;
use crate::mix::{Bank, Mixing, Mixture, Router};
use crate::name::Name;

/// Which router, with its knobs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "router", rename_all = "lowercase", deny_unknown_fields)]
pub enum RouterSpec {
    /// The base alone.
    Base {},
    /// Every example to the expert of its own task.
    Oracle {},
    /// Every expert with equal weight.
    Uniform {},
    /// |x . p_e| against the top singular direction of each expert.
    Arrow {
        /// Experts per token; all when absent.
        top_k: Option<usize>,
        /// Divides the logits.
        temperature: f64,
    },
    /// Standardised inputs against trained gates.
    Phatgoose {
        /// Experts per token; all when absent.
        top_k: Option<usize>,
        /// Divides the logits; `sqrt(d)` when absent.
        temperature: Option<f64>,
    },
}

/// One row of the routers' table.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name on the command line, in JSON and in reports.
    pub name: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// The artifact it needs, if any.
    pub artifact: Option<&'static str>,
    /// The settings it takes: `top_k`, `temperature`.
    pub knobs: &'static [&'static str],
    /// Whether it combines experts, so that the way of mixing them matters.
    pub mixes: bool,
}

impl About {
    /// Whether it takes the setting `knob`.
    pub fn takes(&self, knob: &str) -> bool {
        self.knobs.contains(&knob)
    }
}

/// Every router there is.
pub const ROUTERS: &[About] = &[
    About {
        name: "base",
        what: "the frozen base, no expert",
        paper: "-",
        artifact: None,
        knobs: &[],
        mixes: false,
    },
    About {
        name: "oracle",
        what: "each example to its own task's expert",
        paper: "-",
        artifact: None,
        knobs: &[],
        mixes: false,
    },
    About {
        name: "uniform",
        what: "all experts, equal weights",
        paper: "-",
        artifact: None,
        knobs: &[],
        mixes: true,
    },
    About {
        name: "arrow",
        what: "per token, by |x . top singular direction of B A|; no training",
        paper: "arXiv:2405.11157",
        artifact: Some("arrow"),
        knobs: &["top_k", "temperature"],
        mixes: true,
    },
    About {
        name: "phatgoose",
        what: "per token, by gates trained after the experts",
        paper: "arXiv:2402.05859",
        artifact: Some("phatgoose"),
        knobs: &["top_k", "temperature"],
        mixes: true,
    },
];

/// The row of [`ROUTERS`] of the router called `name`.
///
/// # Errors
/// [`Error::NotFound`] with the nearest names.
pub fn about(name: &str) -> Result<&'static About> {
    let found = ROUTERS.iter().find(|about| about.name == name);
    found.ok_or_else(|| {
        let names = ROUTERS.iter().map(|about| about.name);
        Error::not_found("router", name, names)
    })
}

impl RouterSpec {
    /// The router called `name` with these settings.
    ///
    /// # Errors
    /// When no router is called so, it has no such setting, or a value is out of range.
    pub fn new(name: &str, top_k: Option<usize>, temperature: Option<f64>) -> Result<Self> {
        let about = about(name)?;
        let given = [
            ("top_k", top_k.is_some()),
            ("temperature", temperature.is_some()),
        ];
        for (knob, _) in given.iter().filter(|(_, set)| *set) {
            if !about.takes(knob) {
                let which = ROUTERS.iter().filter(|about| about.takes(knob));
                let which: Vec<&str> = which.map(|about| about.name).collect();
                let which = which.join(" and ");
                let text = format!("router `{name}` has no setting `{knob}`; {which} have one");
                return Err(Error::invalid(text));
            }
        }
        let spec = match name {
            "base" => RouterSpec::Base {},
            "oracle" => RouterSpec::Oracle {},
            "uniform" => RouterSpec::Uniform {},
            "arrow" => RouterSpec::Arrow {
                top_k,
                temperature: temperature.unwrap_or(1.0),
            },
            _ => RouterSpec::Phatgoose { top_k, temperature },
        };
        spec.check().map(|()| spec)
    }

    /// Checks that every setting is in range, whoever wrote it.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        if self.top_k() == Some(0) {
            return Err(Error::invalid(
                "top_k must be at least 1; leave it out to use all experts",
            ));
        }
        match self.temperature() {
            Some(t) if !(t > 0.0 && t.is_finite()) => Err(Error::invalid(format!(
                "temperature {t} must be a number above 0"
            ))),
            _ => Ok(()),
        }
    }

    /// The row of [`ROUTERS`] for this router.
    pub fn about(&self) -> &'static About {
        let row = match self {
            RouterSpec::Base {} => 0,
            RouterSpec::Oracle {} => 1,
            RouterSpec::Uniform {} => 2,
            RouterSpec::Arrow { .. } => 3,
            RouterSpec::Phatgoose { .. } => 4,
        };
        &ROUTERS[row]
    }

    /// Experts per token, `None` for all; only routers that choose have a limit.
    pub fn top_k(&self) -> Option<usize> {
        match self {
            RouterSpec::Arrow { top_k, .. } | RouterSpec::Phatgoose { top_k, .. } => *top_k,
            _ => None,
        }
    }

    /// What divides the logits, unless it is the router's own default.
    fn temperature(&self) -> Option<f64> {
        match self {
            RouterSpec::Arrow { temperature, .. } => {
                Some(*temperature).filter(|t| t.to_bits() != 1f64.to_bits())
            }
            RouterSpec::Phatgoose { temperature, .. } => *temperature,
            _ => None,
        }
    }

    /// The specification as JSON: its name under `router`, and every setting.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "router": self.about().name });
        match *self {
            RouterSpec::Arrow { top_k, temperature } => {
                (value["top_k"], value["temperature"]) = (json!(top_k), json!(temperature));
            }
            RouterSpec::Phatgoose { top_k, temperature } => {
                (value["top_k"], value["temperature"]) = (json!(top_k), json!(temperature));
            }
            _ => {}
        }
        value
    }

    /// Lowers `top_k` to the number of experts there are: a recipe compares libraries of
    /// different sizes under one setting.
    pub fn limit(&mut self, experts: usize) {
        if let RouterSpec::Arrow { top_k, .. } | RouterSpec::Phatgoose { top_k, .. } = self {
            *top_k = top_k.map(|k| k.min(experts));
        }
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
        let entries = match self {
            RouterSpec::Base {} => BTreeMap::new(),
            _ => library.entries()?,
        };
        for (name, entry) in entries {
            let artifact = self.about().artifact;
            let artifact = artifact.and_then(|kind| entry.artifacts.get(kind));
            let artifact = artifact.map(|derived| (derived.file.sha256(), &derived.made_from));
            let fields = (&name, &entry.fingerprint, &entry.tasks, artifact);
            let text = serde_json::to_string(&fields).map_err(|e| Error::format("the index", e))?;
            hash.update(text);
        }
        let hash = hash.finalize();
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
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
        base: &Host,
        mixing: Mixing,
    ) -> Result<Option<Mixture>> {
        if matches!(self, RouterSpec::Base {}) {
            return Ok(None);
        }
        let library = &library.chosen()?;
        let experts = library.experts()?;
        check(&experts, library, base, self.top_k())?;
        let router: Arc<dyn Router> = match *self {
            RouterSpec::Base {} => return Ok(None),
            RouterSpec::Oracle {} => Arc::new(Oracle::new(&experts)?),
            RouterSpec::Uniform {} => Arc::new(Fixed::uniform(experts.len())),
            RouterSpec::Arrow { top_k, temperature } => {
                let artifacts = library.artifact(&Name::new("arrow")?, None)?;
                let score = Score::Absolute { temperature };
                Arc::new(Prototypes::new(&experts, &artifacts, score, top_k)?)
            }
            RouterSpec::Phatgoose { top_k, temperature } => {
                let artifacts = library.artifact(&Name::new("phatgoose")?, None)?;
                let score = Score::Standardised { temperature };
                Arc::new(Prototypes::new(&experts, &artifacts, score, top_k)?)
            }
        };
        let loras = experts.iter().map(|e| (e.card.name.clone(), &e.loras));
        Ok(Some(Mixture {
            bank: Arc::new(Bank::new(loras)?),
            router,
            mixing,
        }))
    }
}

fn check(experts: &[Expert], library: &Library, base: &Host, top_k: Option<usize>) -> Result<()> {
    if experts.is_empty() {
        let text = format!(
            "library {} holds no expert; add some with `lyceum train --library {}`",
            library.uri(),
            library.uri()
        );
        return Err(Error::invalid(text));
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

impl std::fmt::Display for RouterSpec {
    /// The router and every setting that was made: `arrow k=4 t=0.1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.about().name)?;
        if let Some(k) = self.top_k() {
            write!(f, " k={k}")?;
        }
        match self.temperature() {
            Some(t) => write!(f, " t={t}"),
            None => Ok(()),
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
                ("top_k", RouterSpec::new(about.name, Some(2), None)),
                ("temperature", RouterSpec::new(about.name, None, Some(0.5))),
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
        let label = |name, k, t| RouterSpec::new(name, k, t).unwrap().to_string();
        assert_eq!(label("uniform", None, None), "uniform");
        assert_eq!(label("arrow", Some(2), None), "arrow k=2");
        assert_eq!(label("arrow", Some(2), Some(1.0)), "arrow k=2");
        assert_eq!(label("arrow", Some(4), Some(0.1)), "arrow k=4 t=0.1");
        assert_eq!(label("phatgoose", None, Some(1.0)), "phatgoose t=1");
    }

    #[test]
    fn every_router_has_its_row() {
        for about in ROUTERS {
            let top_k = about.takes("top_k").then_some(2);
            let spec = RouterSpec::new(about.name, top_k, None).unwrap();
            assert_eq!(spec.about().name, about.name);
            let json = serde_json::to_value(spec).unwrap();
            assert_eq!(spec.to_value(), json);
            assert_eq!(json["router"], about.name);
            assert_eq!(serde_json::from_value::<RouterSpec>(json).unwrap(), spec);
        }
        let error = RouterSpec::new("arow", None, None).unwrap_err().to_string();
        assert!(error.contains("did you mean arrow"), "{error}");
        assert!(RouterSpec::new("arrow", Some(0), None).is_err());
        assert!(RouterSpec::new("arrow", None, Some(0.0)).is_err());
    }
}
