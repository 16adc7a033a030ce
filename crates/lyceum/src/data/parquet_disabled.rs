//! A build without the feature `parquet`.

use std::path::Path;

use super::{Example, Split};
use crate::error::Result;
use crate::feature;

/// An error: this build reads no parquet.
pub(super) fn read(path: &Path, _: Option<Split>, _: &mut Vec<Example>) -> Result<()> {
    let path = path.display();
    Err(feature::missing(path, "reads no parquet", "parquet"))
}

#[cfg(test)]
#[test]
fn the_missing_feature_is_named() {
    let error = read(Path::new("x.parquet"), None, &mut Vec::new()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("x.parquet: ") && text.ends_with("with the feature `parquet`"),
        "{text}"
    );
}
