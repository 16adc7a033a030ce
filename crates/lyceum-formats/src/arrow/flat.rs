//! Tables of FlatBuffers, in which Arrow makes its claims, every access checked.
//!
//! <https://flatbuffers.dev/internals/>

use crate::error::Result;

/// A table within the bytes of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The offsets of its fields (the vtable).
    fields: &'a [u8],
}

/// Items of one size, one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vector<'a> {
    bytes: &'a [u8],
    start: usize,
    /// The number of items, all of them within the bytes.
    pub(super) len: usize,
    size: usize,
}

const CUT: &str = "one of its messages is damaged: it points outside itself";

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk());
    chunk.copied().ok_or_else(|| CUT.into())
}

/// The place that the offset at `at` points to.
fn pointed(bytes: &[u8], at: usize) -> Result<usize> {
    let offset = u32::from_le_bytes(chunk(bytes, at)?);
    at.checked_add(offset as usize).ok_or_else(|| CUT.into())
}

impl<'a> Table<'a> {
    /// The table that is the whole message.
    pub(super) fn root(bytes: &'a [u8]) -> Result<Self> {
        Table::at(bytes, pointed(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(chunk(bytes, at)?));
        let start = i64::try_from(at)
            .ok()
            .and_then(|at| usize::try_from(at - back).ok());
        let start = start.ok_or(CUT)?;
        let len: usize = u16::from_le_bytes(chunk(bytes, start)?).into();
        let fields = start.checked_add(len).and_then(|end| bytes.get(start..end));
        let fields = fields.and_then(|fields| fields.get(4..)).ok_or(CUT)?;
        Ok(Table { bytes, at, fields })
    }

    /// The size of the message, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The position of the field `i`; `None` if it is absent.
    fn field(&self, i: usize) -> Result<Option<usize>> {
        match self.fields.get(2 * i..).and_then(|rest| rest.first_chunk()) {
            None | Some([0, 0]) => Ok(None),
            Some(offset) => {
                let at = self.at.checked_add(u16::from_le_bytes(*offset).into());
                at.map(Some).ok_or_else(|| CUT.into())
            }
        }
    }

    fn number<const N: usize>(&self, i: usize) -> Result<Option<[u8; N]>> {
        self.field(i)?.map(|at| chunk(self.bytes, at)).transpose()
    }

    pub(super) fn u8(&self, i: usize) -> Result<Option<u8>> {
        Ok(self.number(i)?.map(|[byte]| byte))
    }

    pub(super) fn i16(&self, i: usize) -> Result<Option<i16>> {
        Ok(self.number(i)?.map(i16::from_le_bytes))
    }

    pub(super) fn i32(&self, i: usize) -> Result<Option<i32>> {
        Ok(self.number(i)?.map(i32::from_le_bytes))
    }

    pub(super) fn i64(&self, i: usize) -> Result<Option<i64>> {
        Ok(self.number(i)?.map(i64::from_le_bytes))
    }

    pub(super) fn table(&self, i: usize) -> Result<Option<Table<'a>>> {
        let Some(at) = self.field(i)? else {
            return Ok(None);
        };
        Table::at(self.bytes, pointed(self.bytes, at)?).map(Some)
    }

    pub(super) fn text(&self, i: usize) -> Result<Option<&'a str>> {
        let Some(vector) = self.vector(i, 1)? else {
            return Ok(None);
        };
        let bytes = self.bytes.get(vector.start..vector.start + vector.len);
        let text = std::str::from_utf8(bytes.ok_or(CUT)?);
        text.map(Some)
            .map_err(|_| "a name in its schema is not UTF-8".into())
    }

    /// The items of `size` bytes in the field `i`.
    pub(super) fn vector(&self, i: usize, size: usize) -> Result<Option<Vector<'a>>> {
        let Some(at) = self.field(i)? else {
            return Ok(None);
        };
        let at = pointed(self.bytes, at)?;
        let len = u32::from_le_bytes(chunk(self.bytes, at)?) as usize;
        let start = at + 4;
        let end = len
            .checked_mul(size)
            .and_then(|whole| start.checked_add(whole));
        if end.is_none_or(|end| end > self.bytes.len()) {
            return Err(CUT.into());
        }
        Ok(Some(Vector {
            bytes: self.bytes,
            start,
            len,
            size,
        }))
    }
}

impl<'a> Vector<'a> {
    /// The number that is `within` bytes after the start of the item `i`.
    pub(super) fn i64(&self, i: usize, within: usize) -> Result<i64> {
        let at = self.start + i.min(self.len) * self.size + within;
        Ok(i64::from_le_bytes(chunk(self.bytes, at)?))
    }

    /// The table that the item `i`, an offset, points to.
    pub(super) fn table(&self, i: usize) -> Result<Table<'a>> {
        let at = self.start + i.min(self.len) * self.size;
        Table::at(self.bytes, pointed(self.bytes, at)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_outside_the_bytes() {
        // A table with the fields 0: i16 -2, 2: the text "ab"; 1 is absent.
        let mut good = vec![16, 0, 0, 0, 10, 0, 10, 0, 4, 0, 0, 0, 6, 0, 0, 0];
        good.extend([
            12u8, 0, 0, 0, 0xfe, 0xff, 4, 0, 0, 0, 2, 0, 0, 0, b'a', b'b',
        ]);
        let all = |bytes: &[u8]| -> Result<(Option<i16>, Option<i64>, Option<String>)> {
            let table = Table::root(bytes)?;
            let text = table.text(2)?.map(ToOwned::to_owned);
            Ok((table.i16(0)?, table.i64(1)?, text))
        };
        assert_eq!(all(&good).unwrap(), (Some(-2), None, Some("ab".into())));
        for end in 0..good.len() {
            assert!(all(&good[..end]).is_err(), "{end}");
        }
        for i in 0..good.len() {
            for claim in [0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[i] = claim;
                let _ = all(&bad);
                bad[i..].fill(claim);
                let _ = all(&bad);
            }
        }
    }
}
