//! Thrift's compact protocol, in which parquet makes its claims, as a tree of small values.
//!
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use crate::error::Result;

/// Deepest nesting that is read; parquet's own structures are not half as deep.
const DEPTH: usize = 16;
/// Most fields of one struct; parquet's largest have some fifteen.
const FIELDS: usize = 64;

/// A value, as far as it is of use: text and floats are passed over.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// An integer of any width.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A list or set.
    List(Vec<Value>),
    /// Field numbers and what they hold.
    Struct(Vec<(i16, Value)>),
    /// Anything else.
    Other,
}

impl Value {
    /// The value of the struct's field `id`.
    pub(super) fn field(&self, id: i16) -> Option<&Value> {
        match self {
            Value::Struct(fields) => fields.iter().find(|(i, _)| *i == id).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The integer the struct holds in the field `id`.
    pub(super) fn int(&self, id: i16) -> Option<i64> {
        match self.field(id)? {
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// The integer in the field `id`, which is a size.
    pub(super) fn size(&self, id: i16) -> Result<usize> {
        let size = self.int(id).and_then(|i| usize::try_from(i).ok());
        size.ok_or_else(|| "one of its headers lacks a size".into())
    }
}

/// Reads the struct at the start of `bytes`, and how long it is. No field may be there twice, or
/// two readers could believe different claims.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.fields(0)?;
    Ok((value, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8> {
        let byte = self
            .bytes
            .get(self.at)
            .ok_or("one of its headers is cut off")?;
        self.at += 1;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number in one of its headers is too long".into())
    }

    fn int(&mut self) -> Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        let left = self.bytes.len() - self.at;
        let n = usize::try_from(n).ok().filter(|n| *n <= left);
        self.at += n.ok_or("one of its headers is cut off")?;
        Ok(())
    }

    fn fields(&mut self, depth: usize) -> Result<Value> {
        let mut fields: Vec<(i16, Value)> = Vec::new();
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Value::Struct(fields));
            }
            let next = match head >> 4 {
                0 => i16::try_from(self.int()?).ok(),
                step => id.checked_add(step.into()),
            };
            id = next.ok_or("a field number in one of its headers is too large")?;
            if fields.len() == FIELDS {
                return Err(format!("one of its headers has more than {FIELDS} fields").into());
            }
            if fields.iter().any(|(other, _)| *other == id) {
                return Err(format!("field {id} of one of its headers is there twice").into());
            }
            let value = match head & 15 {
                1 => Value::Bool(true),
                2 => Value::Bool(false),
                kind => self.value(kind, depth + 1)?,
            };
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value> {
        if depth > DEPTH {
            return Err("one of its headers is nested too deep".into());
        }
        Ok(match kind {
            // In a list a truth value is a byte.
            1 | 2 => Value::Bool(self.byte()? == 1),
            3 => Value::Int((self.byte()? as i8).into()),
            4..=6 => Value::Int(self.int()?),
            7 => self.skip(8).map(|()| Value::Other)?,
            8 => {
                let len = self.varint()?;
                self.skip(len).map(|()| Value::Other)?
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => count.into(),
                };
                // An item is a byte at least, so this cannot claim more than there is.
                let items = (0..count).map(|_| self.value(head & 15, depth + 1));
                Value::List(items.collect::<Result<_>>()?)
            }
            12 => self.fields(depth)?,
            _ => return Err(format!("one of its headers holds a value of kind {kind}").into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_whatever_is_odd_is_refused() {
        // 1: i32 -3; 2: "ab"; 5: list of two i32; 6: true; 40: struct { 1: i64 300 }.
        let good = [
            0x15, 5, 0x18, 2, b'a', b'b', 0x39, 0x25, 2, 4, 0x11, 0x0c, 80, 0x16, 0xd8, 4, 0, 0,
        ];
        let (value, len) = read(&good).unwrap();
        assert_eq!((value.int(1), len), (Some(-3), good.len()));
        assert_eq!(value.field(2), Some(&Value::Other));
        let list = Value::List(vec![Value::Int(1), Value::Int(2)]);
        assert_eq!(value.field(5), Some(&list));
        assert_eq!(value.field(6), Some(&Value::Bool(true)));
        assert_eq!(value.field(40).unwrap().int(1), Some(300));
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err());
        }
        let refused = |bytes: &[u8], why: &str| {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(&[0x15, 2, 0x05, 2, 2, 0], "twice");
        refused(&[0x1c; 100], "deep");
        refused(&[0x19; 100], "deep");
        refused(&[0x15; 100].map(|_| 0xff), "kind 15");
        // A text and a list of terabytes.
        refused(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "cut off");
        refused(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "cut off");
    }
}
