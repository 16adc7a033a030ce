//! Rows as parquet, only the columns needed.

use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::{Example, Row, Split, Target};
use crate::error::{Context, Error, Result};

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
    let mut examples = Vec::new();
    let bad = |why: String| Error::format(path.display(), why);
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let reader = file.try_clone().map_err(|e| Error::io(path, e))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(reader).map_err(|e| bad(e.to_string()))?;
    let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
    plausible(builder.metadata(), size).map_err(&bad)?;
    let columns = [
        "source",
        "target",
        "task_name",
        "task_source",
        "template_type",
        "split",
    ];
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns);
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|e| bad(e.to_string()))?;
    let mut number = 0;
    for batch in reader {
        let batch = batch.map_err(|e| bad(e.to_string()))?;
        for row in 0..batch.num_rows() {
            number += 1;
            let at = || format!("{} row {number}", path.display());
            let text = |name: &str, needed: bool| -> Result<Vec<String>> {
                match batch.column_by_name(name) {
                    Some(column) => strings(column.as_ref(), row)
                        .ok_or_else(|| bad(format!("column `{name}` holds no strings"))),
                    None if needed => Err(bad(format!("no column `{name}`"))),
                    None => Ok(vec![String::new()]),
                }
            };
            let one = |name, needed| -> Result<String> {
                Ok(text(name, needed)?.into_iter().next().unwrap_or_default())
            };
            let row = Row {
                source: one("source", true)?,
                target: Target::Many(text("target", true)?),
                task_name: one("task_name", true)?,
                task_source: one("task_source", false)?,
                template_type: one("template_type", false)?,
                split: match batch.column_by_name("split") {
                    Some(_) => Some(one("split", true)?),
                    None => None,
                },
            };
            examples.push(row.example(split).context(at)?);
        }
    }
    Ok(examples)
}

/// Refuses column chunks that lie outside the file of `size` bytes; the reader below trusts them.
fn plausible(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    let place = |x: i64| u64::try_from(x).ok().filter(|x| *x <= size);
    for column in metadata
        .row_groups()
        .iter()
        .flat_map(RowGroupMetaData::columns)
    {
        let start = match column.dictionary_page_offset() {
            Some(offset) => place(offset),
            None => place(column.data_page_offset()),
        };
        let end = start.and_then(|start| start.checked_add(place(column.compressed_size())?));
        if end.is_none_or(|end| end > size) || place(column.data_page_offset()).is_none() {
            let name = column.column_path();
            return Err(format!("column `{name}` lies outside the file"));
        }
    }
    Ok(())
}

/// The string or strings of one row; `None` when the column is of another type.
fn strings(column: &dyn Array, row: usize) -> Option<Vec<String>> {
    if column.is_null(row) {
        return Some(vec![String::new()]);
    }
    match column.data_type() {
        DataType::Utf8 => Some(vec![column.as_string::<i32>().value(row).to_owned()]),
        DataType::LargeUtf8 => Some(vec![column.as_string::<i64>().value(row).to_owned()]),
        DataType::Utf8View => Some(vec![column.as_string_view().value(row).to_owned()]),
        DataType::List(_) => {
            let values = column.as_list::<i32>().value(row);
            let each = (0..values.len()).map(|i| strings(values.as_ref(), i));
            Some(each.collect::<Option<Vec<_>>>()?.concat())
        }
        _ => None,
    }
}
