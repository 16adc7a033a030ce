//! Text columns of parquet files.
//!
//! The parquet crate decodes values; what a file claims is checked here first, because the crate
//! trusts it: a few hundred bytes can claim columns, pages and texts of terabytes. Memory stays
//! within a [`Budget`].

mod codec;
mod column;
mod footer;
mod pages;
mod thrift;

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parquet::file::metadata::ParquetMetaData;

use self::column::Column;
use crate::compression::Budget;
use crate::error::{Error, Result};
use crate::table::{Batch, TextColumn};

/// Rows of a batch.
const ROWS: usize = 1024;

/// Batches of the rows of a file. After an error there is no further batch.
#[derive(Debug)]
pub struct Reader<'a, const N: usize> {
    wanted: [TextColumn<'a>; N],
    file: File,
    size: u64,
    budget: Arc<Budget>,
    metadata: ParquetMetaData,
    /// The next group of rows.
    next: usize,
    group: Option<Group<N>>,
    failed: bool,
}

/// A group of rows that is being read.
struct Group<const N: usize> {
    columns: [Option<Column>; N],
    /// The rows it claims, and those read so far.
    claimed: i64,
    found: usize,
}

impl<'a, const N: usize> Reader<'a, N> {
    /// Reads the front of `file`. The first column that is wanted must be required.
    ///
    /// # Errors
    /// When it is no parquet file, damaged, or larger in memory than its size explains.
    pub fn open(mut file: File, wanted: [TextColumn<'a>; N]) -> Result<Self> {
        let size = file.metadata()?.len();
        let budget = Arc::new(Budget::new(size));
        let metadata = guarded(|| footer::read(&mut file, size, &budget))?;
        Ok(Reader {
            wanted,
            file,
            size,
            budget,
            metadata,
            next: 0,
            group: None,
            failed: false,
        })
    }

    /// The next batch; `None` at the end.
    fn batch(&mut self) -> Result<Option<Batch<N>>> {
        loop {
            let Some(group) = &mut self.group else {
                if self.next == self.metadata.num_row_groups() {
                    return Ok(None);
                }
                self.group = Some(self.begin()?);
                self.next += 1;
                continue;
            };
            let rows = group.batch(&self.wanted)?;
            if !rows.is_empty() {
                group.found += rows.len();
                return Ok(Some(rows));
            }
            let (found, claimed) = (group.found, group.claimed);
            if i64::try_from(found) != Ok(claimed) {
                return Err(format!("it claims {claimed} rows and holds {found}").into());
            }
            self.group = None;
        }
    }

    fn begin(&mut self) -> Result<Group<N>> {
        let group = self.metadata.row_group(self.next);
        let mut columns = [const { None }; N];
        for (column, wanted) in columns.iter_mut().zip(&self.wanted) {
            *column = Column::open(&mut self.file, self.size, group, wanted, &self.budget)?;
            if wanted.required && column.is_none() {
                return Err(format!("no column `{}`", wanted.name).into());
            }
        }
        Ok(Group {
            columns,
            claimed: group.num_rows(),
            found: 0,
        })
    }
}

impl<const N: usize> Iterator for Reader<'_, N> {
    type Item = Result<Batch<N>>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = guarded(|| self.batch());
        self.failed = batch.is_err();
        batch.transpose()
    }
}

impl<const N: usize> std::fmt::Debug for Group<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (claimed, found) = (self.claimed, self.found);
        write!(f, "Group({found} of {claimed} rows)")
    }
}

impl<const N: usize> Group<N> {
    fn batch(&mut self, wanted: &[TextColumn<'_>; N]) -> Result<Batch<N>> {
        let mut rows: Batch<N> = Vec::new();
        for (i, column) in self.columns.iter_mut().enumerate() {
            let Some(column) = column else { continue };
            let texts = column.next(ROWS)?;
            if i == 0 {
                rows.resize_with(texts.len(), || [const { Vec::new() }; N]);
            }
            if texts.len() != rows.len() {
                let name = wanted[i].name;
                let why = format!("column `{name}` has another number of rows than the first");
                return Err(why.into());
            }
            for (row, texts) in rows.iter_mut().zip(texts) {
                row[i] = texts;
            }
        }
        Ok(rows)
    }
}

/// Does `work`, which uses the parquet crate. On some damaged pages that panics (60.1: a division by
/// zero, among others); it works on nothing but this file, which is not read further after an error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let damaged = |_| Err(Error::from("the parquet data is damaged"));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(damaged)
}
