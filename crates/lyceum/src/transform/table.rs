//! The table of transforms: one row for each kind of artifact that routers need of experts.

use std::sync::Arc;

use super::{Phatgoose, arrow, phatgoose};
use crate::backbone::Base;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::library::Library;
use crate::name::Name;
use crate::progress::Progress;

/// The inputs of a transform that trains.
#[derive(Debug)]
pub struct Training<'a> {
    /// The base of the experts.
    pub base: &'a Arc<Base>,
    /// The data whose training rows the experts' tasks name.
    pub data: &'a Dataset,
    /// Settings of the optimisation.
    pub config: &'a Phatgoose,
}

/// Derivation of one kind of artifact. Each function derives what is missing or stale in a library,
/// keeps it there, and returns the names of the experts concerned.
#[derive(Debug, Clone, Copy)]
pub enum Derive {
    /// From the experts' weights alone.
    Weights(fn(&Library) -> Result<Vec<Name>>),
    /// By training over the base on the experts' tasks.
    Training(fn(&Library, &Training<'_>, &mut dyn Progress) -> Result<Vec<Name>>),
}

/// One row of the table of transforms.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The kind of artifact, as [`route::About::artifact`](crate::route::About::artifact) names it.
    pub kind: &'static str,
    /// One line on what it derives.
    pub what: &'static str,
    /// Its derivation.
    pub derive: Derive,
}

/// The transforms that come with Lyceum.
pub const TRANSFORMS: &[About] = &[
    About {
        kind: "arrow",
        what: "prototypes from the experts' weights alone",
        derive: Derive::Weights(arrow),
    },
    About {
        kind: "phatgoose",
        what: "gates trained on the experts' tasks",
        derive: Derive::Training(|library, with, progress| {
            phatgoose(with.base, library, with.data, with.config, progress)
        }),
    },
];

/// Returns the row of the artifacts of `kind`.
///
/// # Errors
/// [`Error::NotFound`] with the nearest kinds.
///
/// ```
/// use lyceum::transform::{self, Derive};
///
/// assert!(matches!(transform::about("arrow")?.derive, Derive::Weights(_)));
/// assert!(transform::about("arow").unwrap_err().to_string().contains("did you mean arrow"));
/// # Ok::<(), lyceum::Error>(())
/// ```
pub fn about(kind: &str) -> Result<&'static About> {
    let found = TRANSFORMS.iter().find(|about| about.kind == kind);
    found.ok_or_else(|| {
        let kinds = TRANSFORMS.iter().map(|about| about.kind);
        Error::not_found("transform", kind, kinds)
    })
}
