//! Text columns of Arrow's IPC streams and files.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>
//!
//! A reader of our own, strict and small: columns of texts and lists of texts are decoded, all
//! others passed over by the number of their buffers, so nothing of the rest of Arrow is needed.
//! Whatever a file claims is checked against the bytes that are there.

mod batch;
mod column;
mod flat;
mod schema;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use self::batch::Batch;
use self::column::Dictionaries;
use self::flat::Table;
use self::schema::Schema;
use crate::compression::Budget;
use crate::error::{Error, Result};
use crate::table::{self, TextColumn};

/// First bytes of the file format, which wraps a stream.
const MAGIC: &[u8] = b"ARROW1\0\0";
/// Continuation marker before the size of a message; absent in files written before 2019.
const MESSAGE: u32 = u32::MAX;
/// The versions of the format that are read: 4 and 5.
const VERSIONS: [i16; 2] = [3, 4];

/// Kinds of messages.
const SCHEMA: u8 = 1;
const DICTIONARY: u8 = 2;
const BATCH: u8 = 3;

/// Batches of the rows of a file, which is read message by message. After an error there is no
/// further batch.
#[derive(Debug)]
pub struct Reader<'a, const N: usize> {
    wanted: [TextColumn<'a>; N],
    file: File,
    size: u64,
    /// Byte offset of the next message.
    at: u64,
    budget: Budget,
    schema: Option<Schema>,
    dictionaries: Dictionaries,
    /// `true` for the file format, whose stream is followed by a footer.
    footer: bool,
    failed: bool,
}

impl<const N: usize> Iterator for Reader<'_, N> {
    type Item = Result<table::Batch<N>>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.batch();
        self.failed = batch.is_err();
        batch.transpose()
    }
}

impl<'a, const N: usize> Reader<'a, N> {
    /// Reads the first bytes of `file`. The first column that is wanted must be required.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(file: File, wanted: [TextColumn<'a>; N]) -> Result<Self> {
        let size = file.metadata()?.len();
        let mut reader = Reader {
            wanted,
            file,
            size,
            at: 0,
            budget: Budget::new(size),
            schema: None,
            dictionaries: BTreeMap::new(),
            footer: false,
            failed: false,
        };
        reader.begin()?;
        Ok(reader)
    }

    fn begin(&mut self) -> Result<()> {
        let len = MAGIC.len();
        if self.size >= len as u64 && bytes(&mut self.file, 0, len)? == MAGIC {
            (self.at, self.footer) = (len as u64, true);
        }
        Ok(())
    }

    /// The rows of the next batch; `None` at the end.
    fn batch(&mut self) -> Result<Option<table::Batch<N>>> {
        while let Some((metadata, body)) = self.message()? {
            let message = Table::root(&metadata)?;
            if !VERSIONS.contains(&message.i16(0)?.unwrap_or_default()) {
                let why = "it is of a version of Arrow that is not read";
                return Err(Error::unsupported(why));
            }
            let header = message.table(2)?.ok_or("a message lacks its header")?;
            match (message.u8(1)?.unwrap_or_default(), &self.schema) {
                (SCHEMA, None) => self.schema = Some(Schema::read(&header, &self.wanted)?),
                (SCHEMA, Some(_)) => return Err("it holds two schemas".into()),
                (_, None) => return Err("its schema does not come first".into()),
                (DICTIONARY, Some(schema)) => {
                    let id = header.i64(0)?.unwrap_or_default();
                    let data = header.table(1)?.ok_or("a dictionary lacks its values")?;
                    let delta = header.u8(2)? == Some(1);
                    if let Some(field) = schema.dictionary(id) {
                        let mut batch = Batch::new(&data, &mut self.file, body, &self.budget)?;
                        let texts = batch.dictionary(field)?;
                        let all = self.dictionaries.entry(id).or_default();
                        match delta {
                            true => all.extend(texts),
                            false => *all = texts,
                        }
                    }
                }
                (BATCH, Some(schema)) => {
                    let mut batch = Batch::new(&header, &mut self.file, body, &self.budget)?;
                    let rows = batch.rows(schema, &self.wanted, &self.dictionaries);
                    return rows.map(Some);
                }
                (kind, _) => return Err(format!("it holds a message of kind {kind}").into()),
            }
        }
        match self.schema {
            Some(_) => Ok(None),
            None => Err("it is empty: not even a schema is there".into()),
        }
    }

    /// The metadata of the next message, and where its body lies; `None` at the end.
    fn message(&mut self) -> Result<Option<(Vec<u8>, Body)>> {
        let mut size = self.word()?;
        if size == MESSAGE {
            size = self.word()?;
        }
        if size == 0 {
            let more = self.at < self.size && !self.footer;
            return match more {
                true => Err("it goes on after its end".into()),
                false => Ok(None),
            };
        }
        let metadata = self.bytes(size as usize)?;
        let len = Table::root(&metadata)?.i64(3)?.unwrap_or_default();
        let body = Body {
            start: self.at,
            len: u64::try_from(len).map_err(|_| "a message claims a negative size")?,
        };
        let end = body
            .start
            .checked_add(body.len)
            .filter(|end| *end <= self.size);
        self.at = end.ok_or("it is cut off within a message, or no Arrow file")?;
        Ok(Some((metadata, body)))
    }

    fn word(&mut self) -> Result<u32> {
        let word = self.bytes(4)?;
        Ok(word
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word)))
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let left = self.size - self.at;
        if left < len as u64 {
            // The mark of the end is always written, so without it something is missing.
            return Err("it is cut off, or no Arrow file".into());
        }
        let bytes = bytes(&mut self.file, self.at, len)?;
        self.at += len as u64;
        Ok(bytes)
    }
}

/// Byte range of a message's body in its file.
#[derive(Debug, Clone, Copy)]
struct Body {
    start: u64,
    len: u64,
}

/// The `len` bytes of `file` from `start` on, which are there.
fn bytes(file: &mut File, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = (file.seek(SeekFrom::Start(start)))
        .and_then(|_| file.take(len as u64).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(error.into()),
        Ok(n) if n < len => Err("it is cut off".into()),
        Ok(_) => Ok(bytes),
    }
}
