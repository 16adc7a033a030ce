//! Rows as parquet, only the columns needed.
//!
//! The parquet crate decodes values; what a file claims is checked here first, because the crate
//! trusts it: a few hundred bytes can claim columns, pages and texts of terabytes. Memory stays
//! within what `../budget.rs` allows.

mod column;
mod footer;
mod pages;
mod thrift;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::metadata::RowGroupMetaData;

use self::column::Column;
use super::budget::Budget;
use super::row::{FIELDS, Row, Texts};
use super::{Example, Split, Why};
use crate::error::{Context, Error, Result};

/// Rows per batch.
const ROWS: usize = 1024;

/// Adds the rows of the file at `path`; those that do not say belong to `split`.
pub(super) fn read(path: &Path, split: Option<Split>, examples: &mut Vec<Example>) -> Result<()> {
    // On some damaged pages the parquet crate panics (60.1: a division by zero, among others). It
    // works on nothing but this file, so whatever it leaves behind is dropped with it.
    let rows = std::panic::catch_unwind(|| rows(path, split));
    let damaged = |_| Err(Error::format(path.display(), "the parquet data is damaged"));
    examples.extend(rows.unwrap_or_else(damaged)?);
    Ok(())
}

fn rows(path: &Path, split: Option<Split>) -> Result<Vec<Example>> {
    let bad = |why: String| Error::format(path.display(), why);
    let io = |e| Error::io(path, e);
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let budget = Arc::new(Budget::new(size));
    let metadata = footer::read(&mut file, size, &budget).map_err(bad)?;
    let mut examples = Vec::new();
    for group in metadata.row_groups() {
        let mut columns = columns(&mut file, size, group, &budget).map_err(bad)?;
        let before = examples.len();
        loop {
            let texts = next(&mut columns).map_err(bad)?;
            if texts.is_empty() {
                break;
            }
            for row in texts {
                let number = examples.len() + 1;
                let at = || format!("{} row {number}", path.display());
                examples.push(Row::from(row).example(split).context(at)?);
            }
        }
        let (found, claimed) = (examples.len() - before, group.num_rows());
        if i64::try_from(found) != Ok(claimed) {
            return Err(bad(format!("it claims {claimed} rows and holds {found}")));
        }
    }
    Ok(examples)
}

type Columns = [Option<Column>; FIELDS.len()];

fn columns(
    file: &mut File,
    size: u64,
    group: &RowGroupMetaData,
    budget: &Arc<Budget>,
) -> Why<Columns> {
    let mut columns = [const { None }; FIELDS.len()];
    for (column, (name, needed)) in columns.iter_mut().zip(FIELDS) {
        *column = Column::open(file, size, group, name, budget)?;
        if needed && column.is_none() {
            return Err(format!("no column `{name}`"));
        }
    }
    Ok(columns)
}

/// The texts of the next rows, column by column.
fn next(columns: &mut Columns) -> Why<Vec<Texts>> {
    let mut rows: Vec<Texts> = Vec::new();
    for (i, column) in columns.iter_mut().enumerate() {
        let Some(column) = column else { continue };
        let texts = column.next(ROWS)?;
        if i == 0 {
            rows.resize_with(texts.len(), Default::default);
        }
        if texts.len() != rows.len() {
            let name = FIELDS[i].0;
            return Err(format!(
                "column `{name}` has another number of rows than the first"
            ));
        }
        for (row, texts) in rows.iter_mut().zip(texts) {
            row[i] = texts;
        }
    }
    Ok(rows)
}
