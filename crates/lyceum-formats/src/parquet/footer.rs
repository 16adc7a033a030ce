//! The metadata in a file's footer, checked before it is used.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

use super::thrift;
use crate::compression::Budget;
use crate::error::Result;

/// Deepest nesting of columns that is read.
const DEPTH: usize = 32;
/// The bytes a footer's tree takes in memory, for each of its own.
const TREE: usize = 64;
const MAGIC: &[u8] = b"PAR1";

/// The `len` bytes of `file` from `start` on.
pub(super) fn bytes(file: &mut File, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = (file.seek(SeekFrom::Start(start)))
        .and_then(|_| file.take(len as u64).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(error.into()),
        Ok(n) if n < len => Err("it is cut off".into()),
        Ok(_) => Ok(bytes),
    }
}

/// The footer of a file of `size` bytes.
pub(super) fn read(file: &mut File, size: u64, budget: &Budget) -> Result<ParquetMetaData> {
    let cut = "it is not a parquet file, or truncated";
    let end = size.checked_sub(8).ok_or(cut)?;
    let tail = bytes(file, end, 8)?;
    let (Some(len), Some(MAGIC)) = (tail.first_chunk(), tail.get(4..)) else {
        return Err(cut.into());
    };
    let len = u32::from_le_bytes(*len);
    let start = end.checked_sub(len.into()).ok_or("its footer is cut off")?;
    let footer = bytes(file, start, len as usize)?;
    budget.spend(footer.len().saturating_mul(TREE))?;
    schema(&footer)?;
    ParquetMetaDataReader::decode_metadata(&footer).map_err(|e| e.to_string().into())
}

/// The reader below makes room for as many columns as the schema claims, and follows it down as
/// deep as it goes.
fn schema(footer: &[u8]) -> Result<()> {
    let (metadata, _) = thrift::read(footer)?;
    let Some(thrift::Value::List(elements)) = metadata.field(2) else {
        return Err("its footer lacks a schema".into());
    };
    // How many children are still to come, level by level.
    let mut open: Vec<usize> = vec![1];
    for (i, element) in elements.iter().enumerate() {
        while open.last() == Some(&0) {
            open.pop();
        }
        let parent = open.last_mut().ok_or("its schema has more than one root")?;
        *parent -= 1;
        let children = match element.field(5) {
            None => 0,
            Some(_) => element.size(5)?,
        };
        if children >= elements.len() - i {
            return Err("its schema claims more columns than it lists".into());
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > DEPTH {
            return Err(format!("its columns are nested deeper than {DEPTH} levels").into());
        }
    }
    Ok(())
}

/// Byte offset and length of a column chunk in a file of `size` bytes.
pub(super) fn place(column: &ColumnChunkMetaData, size: u64) -> Result<(u64, usize)> {
    let name = column.column_path();
    if column.file_path().is_some() {
        return Err(format!("column `{name}` is in another file").into());
    }
    let first = column.dictionary_page_offset();
    let start = u64::try_from(first.unwrap_or(column.data_page_offset())).ok();
    let len = u64::try_from(column.compressed_size()).ok();
    let inside = |(start, len): &(u64, u64)| start.checked_add(*len).is_some_and(|end| end <= size);
    let found = start.zip(len).filter(inside);
    let found = found.and_then(|(start, len)| Some((start, usize::try_from(len).ok()?)));
    found.ok_or_else(|| format!("column `{name}` is outside the file").into())
}
