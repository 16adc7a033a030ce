//! Which merge, with its knobs, and the table of all there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::factor_linear;
use crate::error::{Error, Result};
use crate::name::Name;

/// Weights by expert; every expert merged has one.
pub type Weights = BTreeMap<Name, f64>;

/// The largest rank an adapter may have.
pub(super) const MOST: usize = 4096;

/// Which merge, with its knobs.
///
/// ```
/// use lyceum::merge::{Knobs, MergeSpec};
///
/// let knobs = |density| Knobs { density: Some(density), ..Knobs::default() };
/// assert_eq!(MergeSpec::new("ties", knobs(0.2))?, MergeSpec::Ties { density: 0.2 });
/// assert!(MergeSpec::new("linear", knobs(0.2)).is_err());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "merge", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MergeSpec {
    /// The exact weighted sum of the updates.
    Linear {
        /// Equal ones that sum to 1 when absent.
        #[serde(default)]
        weights: Option<Weights>,
        /// Cuts the sum to this rank at every site; as large as the sum needs when absent.
        #[serde(default)]
        rank: Option<usize>,
    },
    /// The mean of the A's and of the B's, each by the weights: quadratic in them.
    FactorLinear {
        /// Equal ones that sum to 1 when absent; none may be negative.
        #[serde(default)]
        weights: Option<Weights>,
    },
    /// Trim, elect signs, average what agrees.
    Ties {
        /// Share of each expert's values that is kept, the largest; above 0, at most 1.
        density: f64,
    },
    /// Least interference with every expert, by Adam.
    Wudi {
        /// Most updates per factor.
        steps: usize,
        /// Learning rate.
        lr: f64,
    },
    /// Concatenation along the rank axis.
    Cat {
        /// Equal ones that sum to 1 when absent.
        #[serde(default)]
        weights: Option<Weights>,
    },
}

/// One row of the merges' table.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name on the command line and in JSON.
    pub name: &'static str,
    /// Its effect, in a line.
    pub what: &'static str,
    /// The paper it comes from.
    pub paper: &'static str,
    /// The settings it takes.
    pub knobs: &'static [&'static str],
}

/// Every merge there is.
pub const MERGES: &[About] = &[
    About {
        name: "linear",
        what: "exact weighted sum of the updates; any ranks, scales and layers",
        paper: "arXiv:2212.04089",
        knobs: &["weights", "rank"],
    },
    About {
        name: "factor-linear",
        what: "mean of the A's and of the B's apart, quadratic in the weights (MTTL's linear)",
        paper: "arXiv:2203.05482",
        knobs: &["weights"],
    },
    About {
        name: "ties",
        what: "keep the largest values, elect a sign each, average those that agree",
        paper: "arXiv:2306.01708",
        knobs: &["density"],
    },
    About {
        name: "wudi",
        what: "least interference with every expert, by gradient descent on the weights",
        paper: "arXiv:2503.08099",
        knobs: &["steps", "lr"],
    },
    About {
        name: "cat",
        what: "exact weighted sum of the updates by concatenation: the ranks add up",
        paper: "-",
        knobs: &["weights"],
    },
];

/// Settings by name, for any merge.
#[derive(Debug, Clone, Default)]
pub struct Knobs {
    /// Weights by expert.
    pub weights: Option<Weights>,
    /// Share kept.
    pub density: Option<f64>,
    /// Updates.
    pub steps: Option<usize>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Largest rank of the result.
    pub rank: Option<usize>,
}

impl MergeSpec {
    /// The merge called `name`, with MTTL's defaults for what `knobs` leaves open.
    ///
    /// # Errors
    /// When no merge is called so, it has no such knob, or a value is out of range.
    pub fn new(name: &str, knobs: Knobs) -> Result<Self> {
        let Some(about) = MERGES.iter().find(|about| about.name == name) else {
            let names = || MERGES.iter().map(|about| about.name);
            let near = Error::not_found("merge", name, names());
            let all: Vec<&str> = names().collect();
            let text = format!("{near}; the methods are {}", all.join(", "));
            return Err(Error::invalid(text));
        };
        let given = [
            ("weights", knobs.weights.is_some()),
            ("density", knobs.density.is_some()),
            ("steps", knobs.steps.is_some()),
            ("lr", knobs.lr.is_some()),
            ("rank", knobs.rank.is_some()),
        ];
        let stray = |(knob, set): &&(&str, bool)| *set && !about.knobs.contains(knob);
        if let Some((knob, _)) = given.iter().find(stray) {
            let text = format!("merge `{name}` has no setting `{knob}`");
            return Err(Error::invalid(text));
        }
        let spec = match name {
            "linear" => MergeSpec::Linear {
                weights: knobs.weights,
                rank: knobs.rank,
            },
            "factor-linear" => MergeSpec::FactorLinear {
                weights: knobs.weights,
            },
            "ties" => MergeSpec::Ties {
                density: knobs.density.unwrap_or(0.2),
            },
            "wudi" => MergeSpec::Wudi {
                steps: knobs.steps.unwrap_or(300),
                lr: knobs.lr.unwrap_or(1e-5),
            },
            _ => MergeSpec::Cat {
                weights: knobs.weights,
            },
        };
        spec.check().map(|()| spec)
    }

    /// The row of [`MERGES`] for this merge.
    pub fn about(&self) -> &'static About {
        let row = match self {
            MergeSpec::Linear { .. } => 0,
            MergeSpec::FactorLinear { .. } => 1,
            MergeSpec::Ties { .. } => 2,
            MergeSpec::Wudi { .. } => 3,
            MergeSpec::Cat { .. } => 4,
        };
        &MERGES[row]
    }

    /// The weights it was given, if any.
    pub fn weights(&self) -> Option<&Weights> {
        match self {
            MergeSpec::Linear { weights, .. }
            | MergeSpec::FactorLinear { weights }
            | MergeSpec::Cat { weights } => weights.as_ref(),
            MergeSpec::Ties { .. } | MergeSpec::Wudi { .. } => None,
        }
    }

    /// A word of caution on settings that are allowed and do what few expect.
    pub fn caution(&self) -> Option<String> {
        match self {
            MergeSpec::FactorLinear { weights } => factor_linear::caution(weights.as_ref()?),
            _ => None,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let mut weights = self.weights().into_iter().flatten();
        if let Some((name, weight)) = weights.find(|(_, weight)| !weight.is_finite()) {
            let text = format!("the weight of `{name}` is {weight}, not a number to multiply by");
            return Err(Error::invalid(text));
        }
        let wrong = |text: String| Err(Error::invalid(text));
        match self {
            MergeSpec::FactorLinear {
                weights: Some(weights),
            } => factor_linear::check(weights),
            MergeSpec::Linear {
                rank: Some(rank), ..
            } if !(1..=MOST).contains(rank) => {
                wrong(format!("rank is {rank}, it must be 1 to {MOST}"))
            }
            MergeSpec::Ties { density } if !(*density > 0.0 && *density <= 1.0) => wrong(format!(
                "density is {density}, it must be above 0 and at most 1 (the share that is kept)"
            )),
            MergeSpec::Wudi { steps: 0, .. } => wrong("steps is 0, it must be at least 1".into()),
            MergeSpec::Wudi { lr, .. } if !(*lr > 0.0 && lr.is_finite()) => {
                wrong(format!("lr is {lr}, it must be above 0"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_merge_has_its_row() {
        for about in MERGES {
            let spec = MergeSpec::new(about.name, Knobs::default()).unwrap();
            assert_eq!(spec.about().name, about.name);
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(json["merge"], about.name);
            assert_eq!(serde_json::from_value::<MergeSpec>(json).unwrap(), spec);
        }
        let knobs = |density| Knobs {
            density: Some(density),
            ..Knobs::default()
        };
        let error = MergeSpec::new("tise", Knobs::default()).unwrap_err();
        assert!(error.to_string().contains("did you mean ties"), "{error}");
        let error = MergeSpec::new("dare", Knobs::default()).unwrap_err();
        assert!(
            error.to_string().contains("linear, factor-linear, ties"),
            "{error}"
        );
        let error = MergeSpec::new("cat", knobs(0.2)).unwrap_err();
        assert!(
            error.to_string().contains("no setting `density`"),
            "{error}"
        );
        for bad in [0.0, 1.5, f64::NAN] {
            assert!(MergeSpec::new("ties", knobs(bad)).is_err());
        }
        for bad in [0, 4097] {
            let knobs = Knobs {
                rank: Some(bad),
                ..Knobs::default()
            };
            let error = MergeSpec::new("linear", knobs).unwrap_err();
            assert!(error.to_string().contains("rank is"), "{error}");
        }
    }

    #[test]
    fn weights_that_factors_cannot_keep_are_refused() {
        let spec = |name: &str, weights: &[(&str, f64)]| {
            let weights = weights.iter().map(|(n, w)| (Name::new(n).unwrap(), *w));
            let knobs = Knobs {
                weights: Some(weights.collect()),
                ..Knobs::default()
            };
            MergeSpec::new(name, knobs)
        };
        for (weights, why) in [
            (&[("a", -1.0)][..], "`a` the weight -1"),
            (&[("a", 1.5), ("b", -0.5)], "`b` the weight -0.5"),
            (&[("a", 0.0), ("b", 0.0)], "sum to 0"),
        ] {
            let error = spec("factor-linear", weights).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            for exact in ["linear", "cat"] {
                assert!(spec(exact, weights).is_ok());
            }
        }
        for bad in [f64::NAN, f64::INFINITY] {
            for name in ["linear", "factor-linear", "cat"] {
                let error = spec(name, &[("a", bad)]).unwrap_err().to_string();
                assert!(error.contains("the weight of `a`"), "{error}");
            }
        }
        assert_eq!(
            spec("factor-linear", &[("a", 0.5), ("b", 0.5)])
                .unwrap()
                .caution(),
            None
        );
        let said = spec("factor-linear", &[("a", 2.0)])
            .unwrap()
            .caution()
            .unwrap();
        assert!(
            said.contains("sum to 2") && said.contains("4 times"),
            "{said}"
        );
        assert_eq!(spec("linear", &[("a", 2.0)]).unwrap().caution(), None);
    }
}
