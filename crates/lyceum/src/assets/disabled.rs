//! A build without the feature `assets`: nothing is embedded.

use crate::backbone::{Base, LoadOptions};
use crate::data::{Dataset, Question};
use crate::error::Result;
use crate::feature;

/// An error: this build embeds no base.
///
/// # Errors
/// Always.
pub fn base(_: impl Into<LoadOptions>) -> Result<Base> {
    Err(feature::missing(
        "the embedded base",
        "embeds none",
        "assets",
    ))
}

/// An error: this build embeds no tasks.
///
/// # Errors
/// Always.
pub fn tasks() -> Result<Dataset> {
    Err(feature::missing(
        "the embedded tasks",
        "embeds none",
        "assets",
    ))
}

/// An error: this build embeds no questions.
///
/// # Errors
/// Always.
pub fn arc_easy() -> Result<Vec<Question>> {
    Err(feature::missing(
        "the embedded ARC-Easy",
        "embeds none",
        "assets",
    ))
}

#[cfg(test)]
#[test]
fn the_missing_feature_is_named() {
    for error in [
        base(crate::backbone::Precision::F32).err(),
        tasks().err(),
        arc_easy().err(),
    ] {
        let text = error.unwrap().to_string();
        assert!(
            text.ends_with("build it with the feature `assets`"),
            "{text}"
        );
    }
}
