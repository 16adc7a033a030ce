//! Errors for the optional parts that a build leaves out.

use std::fmt::Display;

use crate::error::Error;

/// The error about `subject` in a build that lacks the Cargo feature `feature`; `lacks` continues
/// "this build of Lyceum …".
#[cfg_attr(
    all(
        feature = "assets",
        feature = "parquet",
        feature = "remote",
        feature = "report"
    ),
    allow(dead_code, reason = "nothing is left out")
)]
pub(crate) fn missing(subject: impl Display, lacks: &str, feature: &str) -> Error {
    Error::invalid(format!(
        "{subject}: this build of Lyceum {lacks}; build it with the feature `{feature}`"
    ))
}
