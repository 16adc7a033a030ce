//! One column of a batch as texts.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::schema::{Dictionary, Field, Kind, Span};
use crate::error::Result;

/// Texts in a row each; `None` is null.
pub(super) type Column = Vec<Option<String>>;

/// The texts of the dictionaries met so far.
pub(super) type Dictionaries = BTreeMap<i64, Column>;

/// Bytes charged to the budget for a value, besides its text.
const VALUE: usize = 32;
/// Texts of up to this many bytes are stored inline in a view.
const SHORT: usize = 12;

/// A column of a batch.
pub(super) struct Array<'a, 'b> {
    batch: &'a mut Batch<'b>,
    field: &'a Field,
    at: Span,
    /// Its first buffer.
    first: usize,
    len: usize,
    /// Which values are there, a bit each; empty where all are.
    valid: Vec<u8>,
}

impl<'a, 'b> Array<'a, 'b> {
    /// The column that begins `at`.
    pub(super) fn new(batch: &'a mut Batch<'b>, field: &'a Field, at: Span) -> Result<Self> {
        let len = batch.node(at.nodes)?;
        let first = batch.first(at)?;
        let valid = batch.buffer(first)?;
        if !valid.is_empty() && valid.len() < len.div_ceil(8) {
            return Err("its validity bitmap is shorter than its column".into());
        }
        Ok(Array {
            batch,
            field,
            at,
            first,
            len,
            valid,
        })
    }

    fn is_valid(&self, i: usize) -> bool {
        self.valid
            .get(i / 8)
            .is_none_or(|byte| byte >> (i % 8) & 1 == 1)
    }

    /// Takes note of a text before it is copied.
    fn copied(&self, text: &[u8]) -> Result<String> {
        self.batch.budget.spend(text.len().saturating_add(VALUE))?;
        let text = std::str::from_utf8(text).map_err(|_| "a text is not UTF-8")?;
        Ok(text.to_owned())
    }

    /// The `wanted` texts of a column that has no dictionary.
    pub(super) fn texts(&mut self, wanted: usize) -> Result<Column> {
        if self.len != wanted {
            return Err(format!("it has {} values where there are {wanted}", self.len).into());
        }
        match self.field.kind {
            Kind::Text { wide } => self.between(wide),
            Kind::View => self.viewed(),
            _ => Err("it holds no texts".into()),
        }
    }

    /// Texts between offsets.
    fn between(&mut self, wide: bool) -> Result<Column> {
        let offsets = self.offsets(wide)?;
        let data = self.batch.buffer(self.first + 2)?;
        let pairs = offsets.iter().zip(offsets.iter().skip(1)).enumerate();
        let text = |(i, (start, end)): (usize, (&usize, &usize))| match self.is_valid(i) {
            false => Ok(None),
            true => {
                let bytes = data
                    .get(*start..*end)
                    .ok_or("its texts are outside their buffer")?;
                self.copied(bytes).map(Some)
            }
        };
        pairs.map(text).collect()
    }

    /// The offsets of `len` values and one more, which do not fall.
    fn offsets(&mut self, wide: bool) -> Result<Vec<usize>> {
        let bytes = self.batch.buffer(self.first + 1)?;
        let width = if wide { 8 } else { 4 };
        let all = { self.len.checked_add(1) }.and_then(|n| n.checked_mul(width));
        let bytes = match (self.len, bytes.len()) {
            // Writers leave the offsets of nothing out.
            (0, 0) => return Ok(vec![0]),
            _ => all.and_then(|all| bytes.get(..all)),
        };
        let bytes = bytes.ok_or("it claims more values than it has offsets")?;
        self.batch.budget.spend(self.len.saturating_mul(8))?;
        let offsets: Result<Vec<usize>> = { bytes.chunks_exact(width) }
            .map(|chunk| number(chunk, true))
            .collect();
        match offsets? {
            offsets if offsets.is_sorted() => Ok(offsets),
            _ => Err("its offsets fall".into()),
        }
    }

    /// Texts in views: their length, and the text or where it begins.
    fn viewed(&mut self) -> Result<Column> {
        let views = self.batch.buffer(self.first + 1)?;
        let all = self.len.checked_mul(16).and_then(|all| views.get(..all));
        let all = all.ok_or("it claims more values than it has views")?;
        let more = self.batch.more(self.at.variadic)?;
        let buffers = (0..more).map(|i| self.batch.buffer(self.first + 2 + i));
        let buffers = buffers.collect::<Result<Vec<_>>>()?;
        let text = |(i, view): (usize, &[u8])| {
            if !self.is_valid(i) {
                return Ok(None);
            }
            let (head, rest) = view.split_at(4);
            let len = number(head, true)?;
            let bytes = match len <= SHORT {
                true => rest.get(..len),
                false => {
                    let at = number(rest.get(8..).unwrap_or_default(), true)?;
                    let buffer = number(rest.get(4..8).unwrap_or_default(), true)?;
                    let end = at.checked_add(len);
                    end.and_then(|end| buffers.get(buffer)?.get(at..end))
                }
            };
            self.copied(bytes.ok_or("its texts are outside their buffers")?)
                .map(Some)
        };
        all.chunks_exact(16).enumerate().map(text).collect()
    }

    /// Texts by their places in a dictionary.
    fn indexed(&mut self, wanted: usize, how: Dictionary, known: &Dictionaries) -> Result<Column> {
        let indices = self.batch.buffer(self.first + 1)?;
        let all = wanted
            .checked_mul(how.width)
            .and_then(|all| indices.get(..all));
        let all = all
            .filter(|_| self.len == wanted)
            .ok_or("it has another number of values")?;
        let empty = Vec::new();
        let texts = known.get(&how.id).unwrap_or(&empty);
        let text = |(i, index): (usize, &[u8])| {
            if !self.is_valid(i) {
                return Ok(None);
            }
            let text = texts.get(number(index, how.signed)?);
            match text.ok_or("it names values that its dictionary does not have")? {
                Some(text) => self.copied(text.as_bytes()).map(Some),
                None => Ok(None),
            }
        };
        all.chunks_exact(how.width).enumerate().map(text).collect()
    }

    fn plain(&mut self, wanted: usize, known: &Dictionaries) -> Result<Column> {
        match self.field.dictionary {
            Some(how) => self.indexed(wanted, how, known),
            None => self.texts(wanted),
        }
    }

    /// The texts of each of `wanted` rows: one, or a list of them, or none where there is null.
    pub(super) fn lists(
        &mut self,
        wanted: usize,
        known: &Dictionaries,
    ) -> Result<Vec<Vec<String>>> {
        let (Kind::List { wide }, None) = (self.field.kind, self.field.dictionary) else {
            let texts = self.plain(wanted, known)?;
            return Ok(texts
                .into_iter()
                .map(|text| text.into_iter().collect())
                .collect());
        };
        if self.len != wanted {
            return Err(format!("it has {} values where there are {wanted}", self.len).into());
        }
        let offsets = self.offsets(wide)?;
        let item = self
            .field
            .children
            .first()
            .ok_or("its lists are of no type")?;
        let at = self.at.and(self.field.own());
        let len = self.batch.node(at.nodes)?;
        let mut items = Array::new(self.batch, item, at)?.plain(len, known)?;
        let mut rows = Vec::new();
        for (i, (start, end)) in offsets.iter().zip(offsets.iter().skip(1)).enumerate() {
            if !self.is_valid(i) {
                rows.push(Vec::new());
                continue;
            }
            let items = items
                .get_mut(*start..*end)
                .ok_or("its lists are outside their values")?;
            let texts = items
                .iter_mut()
                .map(Option::take)
                .collect::<Option<Vec<_>>>();
            rows.push(texts.ok_or("a list holds a null")?);
        }
        Ok(rows)
    }
}

/// A number of one, two, four or eight bytes, which is a place or a size.
fn number(bytes: &[u8], signed: bool) -> Result<usize> {
    let wide = |bytes: &[u8]| {
        let mut all = [0; 8];
        for (to, from) in all.iter_mut().zip(bytes) {
            *to = *from;
        }
        u64::from_le_bytes(all)
    };
    let negative = signed && bytes.last().is_some_and(|byte| *byte >= 0x80);
    let number = usize::try_from(wide(bytes)).ok();
    number
        .filter(|_| !negative)
        .ok_or_else(|| "it has a negative offset or size".into())
}
