//! One column as texts, row by row.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::RowGroupMetaData;
use parquet::schema::types::ColumnDescriptor;

use super::budget::Budget;
use super::pages::{Levels, Pages};
use super::{Why, footer};

/// The texts of a column: one in a row, or a list of them.
pub(super) struct Column {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// The level of a text that is there.
    present: i16,
    levels: Levels,
    budget: Arc<Budget>,
}

impl Column {
    /// The column `name` of a group of rows in a file of `size` bytes, if there is one.
    pub(super) fn open(
        file: &mut File,
        size: u64,
        group: &RowGroupMetaData,
        name: &str,
        budget: &Arc<Budget>,
    ) -> Why<Option<Self>> {
        let named = |c: &&_| part(c, 0) == Some(name);
        let mut leaves = group.columns().iter().filter(|c| named(&c.column_descr()));
        let Some(chunk) = leaves.next() else {
            return Ok(None);
        };
        let descriptor = chunk.column_descr_ptr();
        if leaves.next().is_some() || !holds_text(&descriptor) {
            return Err(format!("column `{name}` holds no strings"));
        }
        let (start, len) = footer::place(chunk, size)?;
        budget.spend(len)?;
        let bytes = footer::bytes(file, start, len)?;
        let levels = Levels {
            repeated: descriptor.max_rep_level() > 0,
            defined: descriptor.max_def_level() > 0,
        };
        let pages = Pages::new(bytes, chunk.compression(), levels, budget.clone());
        Ok(Some(Column {
            present: descriptor.max_def_level(),
            reader: ColumnReaderImpl::new(descriptor, Box::new(pages)),
            levels,
            budget: budget.clone(),
        }))
    }

    /// The texts of the next rows, of at most `n`. A row without any has none.
    pub(super) fn next(&mut self, n: usize) -> Why<Vec<Vec<String>>> {
        let (mut present, mut starts, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let read =
            (self.reader).read_records(n, Some(&mut present), Some(&mut starts), &mut values);
        let (rows, _, count) = read.map_err(|e| e.to_string())?;
        let mut values = values.into_iter();
        let mut out: Vec<Vec<String>> = Vec::new();
        for i in 0..count {
            if !self.levels.repeated || starts.get(i) == Some(&0) {
                out.push(Vec::new());
            }
            let row = out.last_mut().ok_or("a column begins within a row")?;
            if !self.levels.defined || present.get(i) == Some(&self.present) {
                row.push(self.text(values.next().as_ref())?);
            }
        }
        match out.len() == rows {
            true => Ok(out),
            false => Err("a column's levels contradict each other".into()),
        }
    }

    fn text(&self, value: Option<&ByteArray>) -> Why<String> {
        let value = value.ok_or("a column holds fewer values than its levels say")?;
        self.budget.spend(value.len())?;
        let text = std::str::from_utf8(value.data());
        Ok(text.map_err(|_| "a string is not UTF-8")?.to_owned())
    }
}

fn part(column: &ColumnDescriptor, i: usize) -> Option<&str> {
    column.path().parts().get(i).map(String::as_str)
}

/// Whether a column holds strings, or lists of them.
fn holds_text(column: &ColumnDescriptor) -> bool {
    let text = column.converted_type() == ConvertedType::UTF8
        || matches!(column.logical_type_ref(), Some(LogicalType::String));
    let depth = match column.max_rep_level() {
        0 => 1,
        1 => 3,
        _ => 0,
    };
    text && column.physical_type() == Type::BYTE_ARRAY && column.path().parts().len() <= depth
}
