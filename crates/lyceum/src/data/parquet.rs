//! Rows as parquet.

use std::fs::File;
use std::path::Path;

use lyceum_formats::parquet::Reader;

use super::row::{COLUMNS, add};
use super::{Example, Split};
use crate::error::{Error, Result};
use crate::file::unread;

/// Adds the rows of the file at `path`; those that do not say belong to `split`.
pub(super) fn read(path: &Path, split: Option<Split>, examples: &mut Vec<Example>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let rows = Reader::open(file, COLUMNS).map_err(|e| unread(path.display(), e))?;
    add(rows, path, split, examples)
}
