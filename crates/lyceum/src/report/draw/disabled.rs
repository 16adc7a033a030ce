//! A build without the feature `report`: charts are data that nothing draws.

use std::path::Path;

use super::Report;
use super::chart::Chart;
use crate::error::{Error, Result};
use crate::feature;

fn missing(subject: &str) -> Error {
    feature::missing(subject, "draws no charts and pages", "report")
}

/// Checks that this build draws charts and pages, which the feature `report` adds.
///
/// # Errors
/// Always: this build does not.
pub fn drawable() -> Result<()> {
    Err(missing("a report's pictures"))
}

/// An error: this build draws no pages.
pub(super) fn page(report: &Report, _: &[Chart]) -> Result<String> {
    Err(missing(&report.title))
}

impl Chart {
    /// An error: this build draws no charts.
    ///
    /// # Errors
    /// Always.
    pub fn svg(&self) -> Result<String> {
        Err(missing(&self.title))
    }

    /// An error: this build draws no charts.
    ///
    /// # Errors
    /// Always.
    pub fn png(&self) -> Result<Vec<u8>> {
        Err(missing(&self.title))
    }

    /// An error: this build draws no charts.
    ///
    /// # Errors
    /// Always.
    pub fn write(&self, _: &Path) -> Result<()> {
        Err(missing(&self.title))
    }
}

#[cfg(test)]
#[test]
fn the_missing_feature_is_named() {
    let text = drawable().unwrap_err().to_string();
    assert!(
        text.ends_with("build it with the feature `report`"),
        "{text}"
    );
}
