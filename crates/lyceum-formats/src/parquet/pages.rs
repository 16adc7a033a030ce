//! The pages of a column, each checked and paid for before it is unpacked.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::ParquetError;

use super::codec;
use super::thrift::{self, Value};
use crate::compression::{self, Budget};
use crate::error::{Error, Result};

/// Bytes charged to the budget for a value, besides its text: its levels, its index and its row.
const VALUE: usize = 64;

/// Kinds of pages.
const DATA: i64 = 0;
const INDEX: i64 = 1;
const DICTIONARY: i64 = 2;
const DATA_V2: i64 = 3;

/// Presence of repetition and definition levels in a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    /// `true` if a row may hold several values.
    pub(super) repeated: bool,
    /// `true` if a row may hold none.
    pub(super) defined: bool,
}

/// Reads the pages of one column chunk.
pub(super) struct Pages {
    /// The chunk.
    bytes: Vec<u8>,
    at: usize,
    compression: Compression,
    levels: Levels,
    /// `true` once a dictionary page was read.
    dictionary: bool,
    budget: Arc<Budget>,
}

impl Pages {
    pub(super) fn new(
        bytes: Vec<u8>,
        compression: Compression,
        levels: Levels,
        budget: Arc<Budget>,
    ) -> Self {
        Pages {
            bytes,
            at: 0,
            compression,
            levels,
            dictionary: false,
            budget,
        }
    }

    fn next_page(&mut self) -> Result<Option<Page>> {
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            let (header, len) = thrift::read(rest)?;
            let body = rest.get(len..).unwrap_or_default();
            let body = body.get(..header.size(3)?).ok_or("a page is cut off")?;
            self.at += len + body.len();
            let page = match header.int(1) {
                Some(DATA) => self.data(&header, body)?,
                Some(DATA_V2) => self.data_v2(&header, body)?,
                Some(DICTIONARY) => self.dictionary(&header, body)?,
                Some(INDEX) => continue,
                _ => return Err("a page is of no known kind".into()),
            };
            self.dictionary |= page.is_dictionary_page();
            // A page without values would end the column for the reader above.
            if page.is_dictionary_page() || page.num_values() > 0 {
                return Ok(Some(page));
            }
        }
    }

    /// `body` unpacked to `size` bytes.
    fn unpack(&self, body: &[u8], size: usize) -> Result<Vec<u8>> {
        self.budget.spend(size)?;
        let unpacked = match self.compression {
            Compression::UNCOMPRESSED => Some(body.to_vec()).filter(|body| body.len() == size),
            Compression::SNAPPY => codec::snappy(body, size)?,
            Compression::ZSTD(_) => compression::zstd(body, size)?,
            Compression::GZIP(_) => codec::gzip(body, size)?,
            Compression::BROTLI(_) => codec::brotli(body, size)?,
            Compression::LZ4_RAW => codec::lz4_block(body, size)?,
            Compression::LZ4 => codec::lz4_hadoop(body, size)?,
            Compression::LZO => {
                let why = "it is compressed by LZO, which is not read; every other codec is";
                return Err(Error::unsupported(why));
            }
        };
        unpacked.ok_or_else(|| "a page does not unpack to the size it claims".into())
    }

    fn dictionary(&self, header: &Value, body: &[u8]) -> Result<Page> {
        let own = header.field(7).ok_or("a page lacks its header")?;
        if self.dictionary {
            return Err("a column has two dictionaries".into());
        }
        if !matches!(own.int(2), Some(0 | 2)) {
            return Err("a dictionary is not plain".into());
        }
        let buf = self.unpack(body, header.size(2)?)?;
        // Each text begins with its length, in four bytes.
        let num_values = own.size(1)?;
        if num_values > buf.len() / 4 {
            return Err("a dictionary claims more values than it has room for".into());
        }
        self.budget.spend(num_values.saturating_mul(VALUE))?;
        Ok(Page::DictionaryPage {
            buf: buf.into(),
            num_values: narrow(num_values)?,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        })
    }

    /// The number of values of a data page, paid for, and their encoding.
    fn values(&self, own: &Value, encoding: i16) -> Result<(u32, Encoding)> {
        let num_values = own.size(1)?;
        self.budget.spend(num_values.saturating_mul(VALUE))?;
        let encoding = match own.int(encoding) {
            Some(0) => Encoding::PLAIN,
            Some(2 | 8) if self.dictionary => Encoding::RLE_DICTIONARY,
            Some(2 | 8) => return Err("a column lacks its dictionary".into()),
            // These can repeat what is long as often as they like.
            _ => {
                let why = "a column is neither plain nor by dictionary; write it as one";
                return Err(Error::unsupported(why));
            }
        };
        Ok((narrow(num_values)?, encoding))
    }

    fn data(&self, header: &Value, body: &[u8]) -> Result<Page> {
        let own = header.field(5).ok_or("a page lacks its header")?;
        let (num_values, encoding) = self.values(own, 2)?;
        let buf = self.unpack(body, header.size(2)?)?;
        for (there, field) in [(self.levels.repeated, 4), (self.levels.defined, 3)] {
            if there && own.int(field) != Some(3) {
                return Err("a page's levels are not run-length encoded".into());
            }
        }
        Ok(Page::DataPage {
            buf: buf.into(),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })
    }

    fn data_v2(&self, header: &Value, body: &[u8]) -> Result<Page> {
        let own = header.field(8).ok_or("a page lacks its header")?;
        let (num_values, encoding) = self.values(own, 4)?;
        // The levels come first and are never compressed.
        let (def, rep) = (own.size(5)?, own.size(6)?);
        let levels = def
            .checked_add(rep)
            .and_then(|len| body.split_at_checked(len));
        let (levels, packed) = levels.ok_or("a page's levels are cut off")?;
        let mut buf = levels.to_vec();
        let size = header.size(2)?.checked_sub(levels.len());
        let size = size.ok_or("a page's levels are longer than the page")?;
        if own.field(7) == Some(&Value::Bool(false)) || size == 0 {
            self.budget.spend(packed.len())?;
            buf.extend(packed);
        } else {
            buf.extend(self.unpack(packed, size)?);
        }
        Ok(Page::DataPageV2 {
            buf: buf.into(),
            num_values,
            encoding,
            num_nulls: narrow(own.size(2)?)?,
            num_rows: narrow(own.size(3)?)?,
            def_levels_byte_len: narrow(def)?,
            rep_levels_byte_len: narrow(rep)?,
            is_compressed: false,
            statistics: None,
        })
    }
}

fn narrow(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| format!("a page claims a size of {n}").into())
}

/// An error of this crate on its way through the parquet crate; see [`returned`].
fn carried(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The error of this crate that the parquet crate returned, or one about the column `name`.
pub(super) fn returned(error: ParquetError, name: &str) -> Error {
    let column = format!("column `{name}`");
    match error {
        ParquetError::External(error) => match error.downcast::<Error>() {
            Ok(error) => error.within(format!("{column}:")),
            Err(other) => format!("{column} is damaged ({other})").into(),
        },
        ParquetError::General(why) => format!("{column}: {why}").into(),
        other => format!("{column} is damaged ({other})").into(),
    }
}

impl Iterator for Pages {
    type Item = parquet::errors::Result<Page>;
    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        self.next_page().map_err(carried)
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Err(ParquetError::General("pages are read in order".into()))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        Err(ParquetError::General("pages are read in order".into()))
    }

    /// A page of the second kind begins with a row, one of the first may go on with the last.
    fn at_record_boundary(&mut self) -> parquet::errors::Result<bool> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(true);
        }
        let (header, _) = thrift::read(rest).map_err(carried)?;
        Ok(header.int(1) == Some(DATA_V2))
    }
}
