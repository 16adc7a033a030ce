//! Rows as JSON lines.

use super::{Example, Row, Split};
use crate::error::{Context, Error, Result};

/// Adds the rows of `bytes`; `what` names them in errors, with the line. Rows that do not say
/// belong to `split`.
pub(super) fn read(
    bytes: &[u8],
    (what, split): (&str, Option<Split>),
    examples: &mut Vec<Example>,
) -> Result<()> {
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = || format!("{what}:{}", i + 1);
        let row: Row = serde_json::from_slice(line).map_err(|e| Error::format(at(), e))?;
        examples.push(row.example(split).context(at)?);
    }
    Ok(())
}
