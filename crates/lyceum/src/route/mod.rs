//! Routers: what decides which expert sees which token.
//!
//! A router's *specification* is the closed enum [`RouterSpec`] plus the table [`ROUTERS`], from
//! which help and docs are made; the *thing* is a [`Router`]. A router that
//! needs prototypes cannot be built without them.

mod fixed;
mod gate;
mod oracle;
mod prototype;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
}

/// Every router there is.
pub const ROUTERS: &[About] = &[
    About {
        name: "base",
        what: "the frozen base, no expert",
        paper: "-",
        artifact: None,
    },
    About {
        name: "oracle",
        what: "each example to its own task's expert",
        paper: "-",
        artifact: None,
    },
    About {
        name: "uniform",
        what: "all experts, equal weights",
        paper: "-",
        artifact: None,
    },
    About {
        name: "arrow",
        what: "per token, by |x . top singular direction of B A|; no training",
        paper: "arXiv:2405.11157",
        artifact: Some("arrow"),
    },
    About {
        name: "phatgoose",
        what: "per token, by gates trained after the experts",
        paper: "arXiv:2402.05859",
        artifact: Some("phatgoose"),
    },
];

impl RouterSpec {
    /// The router called `name` with these knobs.
    ///
    /// # Errors
    /// When no router is called so, or a knob is out of range.
    pub fn new(name: &str, top_k: Option<usize>, temperature: Option<f64>) -> Result<Self> {
        if top_k == Some(0) {
            return Err(Error::invalid("--top-k must be at least 1 (or `all`)"));
        }
        if temperature.is_some_and(|t| !(t > 0.0 && t.is_finite())) {
            return Err(Error::invalid("--temperature must be a number above 0"));
        }
        Ok(match name {
            "base" => RouterSpec::Base {},
            "oracle" => RouterSpec::Oracle {},
            "uniform" => RouterSpec::Uniform {},
            "arrow" => RouterSpec::Arrow {
                top_k,
                temperature: temperature.unwrap_or(1.0),
            },
            "phatgoose" => RouterSpec::Phatgoose { top_k, temperature },
            other => {
                let names = ROUTERS.iter().map(|about| about.name);
                return Err(Error::not_found("router", other, names));
            }
        })
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
    fn top_k(&self) -> Option<usize> {
        match self {
            RouterSpec::Arrow { top_k, .. } | RouterSpec::Phatgoose { top_k, .. } => *top_k,
            _ => None,
        }
    }

    /// Lowers `top_k` to the number of experts there are: a recipe compares libraries of
    /// different sizes under one setting.
    pub fn limit(&mut self, experts: usize) {
        if let RouterSpec::Arrow { top_k, .. } | RouterSpec::Phatgoose { top_k, .. } = self {
            *top_k = top_k.map(|k| k.min(experts));
        }
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
            "top-k {k} is larger than the library, which holds {n} experts; use --top-k {n} or all"
        )));
    }
    experts
        .iter()
        .try_for_each(|expert| expert.check_base(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_router_has_its_row() {
        for about in ROUTERS {
            let spec = RouterSpec::new(about.name, Some(2), None).unwrap();
            assert_eq!(spec.about().name, about.name);
            let json = serde_json::to_value(spec).unwrap();
            assert_eq!(json["router"], about.name);
            assert_eq!(serde_json::from_value::<RouterSpec>(json).unwrap(), spec);
        }
        let error = RouterSpec::new("arow", None, None).unwrap_err().to_string();
        assert!(error.contains("did you mean arrow"), "{error}");
        assert!(RouterSpec::new("arrow", Some(0), None).is_err());
        assert!(RouterSpec::new("arrow", None, Some(0.0)).is_err());
    }
}
