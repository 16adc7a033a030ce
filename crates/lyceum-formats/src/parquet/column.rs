//! One column as texts, row by row.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type};
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::RowGroupMetaData;
use parquet::schema::types::ColumnDescriptor;

use super::footer;
use super::pages::{Levels, Pages, returned};
use crate::compression::Budget;
use crate::error::Result;
use crate::table::TextColumn;

/// The texts of a column: one in a row, or a list of them.
pub(super) struct Column {
    reader: ColumnReaderImpl<ByteArrayType>,
    name: String,
    /// The level of a text that is there.
    present: i16,
    /// That of a null in a list, if there may be one.
    null: Option<i16>,
    levels: Levels,
    budget: Arc<Budget>,
}

impl Column {
    /// The column `wanted` of a group of rows in a file of `size` bytes, if there is one.
    pub(super) fn open(
        file: &mut File,
        size: u64,
        group: &RowGroupMetaData,
        wanted: &TextColumn<'_>,
        budget: &Arc<Budget>,
    ) -> Result<Option<Self>> {
        let name = wanted.name;
        let named = |c: &&_| part(c, 0) == Some(name);
        let mut leaves = group.columns().iter().filter(|c| named(&c.column_descr()));
        let Some(chunk) = leaves.next() else {
            return Ok(None);
        };
        let descriptor = chunk.column_descr_ptr();
        if matches!(descriptor.logical_type_ref(), Some(LogicalType::Unknown)) {
            // What writers make of a column that holds nothing but nulls.
            return Ok(None);
        }
        if leaves.next().is_some() || !holds_text(&descriptor) {
            return Err(mistyped(wanted, &descriptor).into());
        }
        let (start, len) = footer::place(chunk, size)?;
        budget.spend(len)?;
        let bytes = footer::bytes(file, start, len)?;
        let levels = Levels {
            repeated: descriptor.max_rep_level() > 0,
            defined: descriptor.max_def_level() > 0,
        };
        let pages = Pages::new(bytes, chunk.compression(), levels, budget.clone());
        let present = descriptor.max_def_level();
        let item = descriptor.self_type().get_basic_info();
        let list = item.has_repetition() && item.repetition() == Repetition::OPTIONAL;
        let list = levels.repeated && list;
        Ok(Some(Column {
            name: name.to_owned(),
            present,
            null: list.then(|| present - 1),
            reader: ColumnReaderImpl::new(descriptor, Box::new(pages)),
            levels,
            budget: budget.clone(),
        }))
    }

    /// The texts of the next rows, of at most `n`. A row without any has none.
    pub(super) fn next(&mut self, n: usize) -> Result<Vec<Vec<String>>> {
        let (mut present, mut starts, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let read =
            (self.reader).read_records(n, Some(&mut present), Some(&mut starts), &mut values);
        let (rows, _, count) = read.map_err(|error| returned(error, &self.name))?;
        let mut values = values.into_iter();
        let mut out: Vec<Vec<String>> = Vec::new();
        for i in 0..count {
            if !self.levels.repeated || starts.get(i) == Some(&0) {
                out.push(Vec::new());
            }
            let row = out.last_mut().ok_or("a column begins within a row")?;
            let level = present.get(i).copied();
            if !self.levels.defined || level == Some(self.present) {
                row.push(self.text(values.next().as_ref())?);
            } else if level.is_some() && level == self.null {
                return Err(format!("a list in column `{}` holds a null", self.name).into());
            }
        }
        match out.len() == rows {
            true => Ok(out),
            false => Err("a column's levels contradict each other".into()),
        }
    }

    fn text(&self, value: Option<&ByteArray>) -> Result<String> {
        let value = value.ok_or("a column holds fewer values than its levels say")?;
        self.budget.spend(value.len())?;
        let text = std::str::from_utf8(value.data());
        let text = text.map_err(|_| format!("a text in column `{}` is not UTF-8", self.name))?;
        Ok(text.to_owned())
    }
}

fn part(column: &ColumnDescriptor, i: usize) -> Option<&str> {
    column.path().parts().get(i).map(String::as_str)
}

/// An error about a column of another type than texts.
fn mistyped(wanted: &TextColumn<'_>, column: &ColumnDescriptor) -> String {
    let nested = column.max_rep_level() > 0 || column.path().parts().len() > 1;
    let kind = match (nested, column.converted_type()) {
        (true, _) => "lists or structs of another form".into(),
        (false, ConvertedType::NONE) => column.physical_type().to_string(),
        (false, converted) => converted.to_string(),
    };
    let (name, types) = (wanted.name, wanted.types());
    format!("column `{name}` holds {kind}; expected {types}")
}

/// Returns `true` for a column of strings, or of lists of strings.
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
