//! The columns of one batch of rows.
//!
//! <https://github.com/apache/arrow/blob/main/format/Message.fbs>

use std::fs::File;

use super::column::{Array, Column, Dictionaries};
use super::flat::{Table, Vector};
use super::schema::{Field, Schema, Span};
use super::{Body, bytes};
use crate::compression::{self, Budget};
use crate::error::{Error, Result};
use crate::table::{self, TextColumn};

/// Bytes charged to the budget for a row, besides its texts.
const ROW: usize = 64;

/// Compression of a batch's buffers.
#[derive(Debug, Clone, Copy)]
enum Codec {
    Lz4,
    Zstd,
}

/// A batch, its buffers still in the file.
pub(super) struct Batch<'a> {
    file: &'a mut File,
    body: Body,
    rows: usize,
    nodes: Option<Vector<'a>>,
    buffers: Option<Vector<'a>>,
    variadic: Option<Vector<'a>>,
    codec: Option<Codec>,
    pub(super) budget: &'a Budget,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        header: &Table<'a>,
        file: &'a mut File,
        body: Body,
        budget: &'a Budget,
    ) -> Result<Self> {
        let codec = match header.table(3)? {
            None => None,
            Some(packing) => match (packing.u8(0)?.unwrap_or(0), packing.u8(1)?.unwrap_or(0)) {
                (0, 0) => Some(Codec::Lz4),
                (1, 0) => Some(Codec::Zstd),
                _ => return Err(Error::unsupported("it is packed in a way that is not read")),
            },
        };
        Ok(Batch {
            file,
            body,
            rows: size(header.i64(0)?.unwrap_or_default())?,
            nodes: header.vector(1, 16)?,
            buffers: header.vector(2, 16)?,
            variadic: header.vector(4, 8)?,
            codec,
            budget,
        })
    }

    /// The texts of a dictionary, the values of `field`.
    pub(super) fn dictionary(&mut self, field: &Field) -> Result<Column> {
        let plain = field.values();
        let rows = self.rows;
        Array::new(self, &plain, Span::default())?.texts(rows)
    }

    /// The rows, column by column.
    pub(super) fn rows<const N: usize>(
        &mut self,
        schema: &Schema,
        wanted: &[TextColumn<'_>; N],
        known: &Dictionaries,
    ) -> Result<table::Batch<N>> {
        let mut rows: table::Batch<N> = Vec::new();
        for (i, (used, column)) in schema.used.iter().zip(wanted).enumerate() {
            let Some((field, start)) = used.and_then(|(f, at)| Some((schema.field(f)?, at))) else {
                continue;
            };
            let n = self.rows;
            let texts = { Array::new(self, field, start) }
                .and_then(|mut array| array.lists(n, known))
                .map_err(|error| error.within(format!("column `{}`:", column.name)))?;
            if rows.is_empty() {
                // As many texts are there: the first column is one that must be.
                self.budget.spend(n.saturating_mul(ROW))?;
                rows.resize_with(n, || [const { Vec::new() }; N]);
            }
            for (row, texts) in rows.iter_mut().zip(texts) {
                row[i] = texts;
            }
        }
        Ok(rows)
    }

    /// The number of values of the node `i`.
    pub(super) fn node(&self, i: usize) -> Result<usize> {
        let nodes = self.nodes.filter(|nodes| i < nodes.len);
        size(
            nodes
                .ok_or("a batch lists fewer columns than its schema")?
                .i64(i, 0)?,
        )
    }

    /// Which buffer is the first of the column that begins `at`: columns of views before it have
    /// more than their types say.
    pub(super) fn first(&self, at: Span) -> Result<usize> {
        (0..at.variadic).try_fold(at.buffers, |first, i| {
            let first = first.checked_add(self.more(i)?);
            first.ok_or_else(|| "a batch claims more buffers than it lists".into())
        })
    }

    /// The number of variadic data buffers (of longer texts) of the view column `i`.
    pub(super) fn more(&self, i: usize) -> Result<usize> {
        let counts = self.variadic.filter(|counts| i < counts.len);
        let more = size(
            counts
                .ok_or("a batch lists fewer columns of views than its schema")?
                .i64(i, 0)?,
        )?;
        match self.buffers.is_some_and(|buffers| more <= buffers.len) {
            true => Ok(more),
            false => Err("a batch claims more buffers than it lists".into()),
        }
    }

    /// The buffer `i`, unpacked.
    pub(super) fn buffer(&mut self, i: usize) -> Result<Vec<u8>> {
        let buffers = self.buffers.filter(|buffers| i < buffers.len);
        let buffers = buffers.ok_or("a batch lists fewer buffers than its schema")?;
        let outside = "a buffer is outside its batch";
        let (start, len) = (buffers.i64(i, 0)?, buffers.i64(i, 8)?);
        let start = u64::try_from(start).map_err(|_| outside)?;
        let len = u64::try_from(len).map_err(|_| outside)?;
        if start.checked_add(len).is_none_or(|end| end > self.body.len) {
            return Err(outside.into());
        }
        let len = usize::try_from(len).map_err(|_| outside)?;
        self.budget.spend(len)?;
        let bytes = bytes(self.file, self.body.start + start, len)?;
        let Some(codec) = self.codec.filter(|_| len > 0) else {
            return Ok(bytes);
        };
        let (whole, packed) = bytes
            .split_first_chunk()
            .ok_or("a packed buffer lacks its size")?;
        let whole = match i64::from_le_bytes(*whole) {
            // Packing it would not have made it smaller.
            -1 => return Ok(packed.to_vec()),
            whole => size(whole)?,
        };
        self.budget.spend(whole)?;
        let unpacked = match codec {
            Codec::Lz4 => compression::lz4_frame(packed, whole),
            Codec::Zstd => compression::zstd(packed, whole),
        };
        unpacked?.ok_or_else(|| "a buffer does not unpack to the size it claims".into())
    }
}

fn size(claim: i64) -> Result<usize> {
    usize::try_from(claim).map_err(|_| format!("a batch claims a size of {claim}").into())
}
