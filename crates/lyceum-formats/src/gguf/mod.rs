//! The header of a GGUF file: typed fields, and where each tensor lies.
//!
//! Source: the GGUF specification, versions 2 and 3. A file comes from anywhere, so nothing is
//! believed before it is checked against the file's length: lists are kept as the bytes they are,
//! and two fields or tensors of one name are refused.

mod types;

use std::collections::BTreeMap;
use std::ops::Range;

pub use self::types::GgmlType;
use self::types::ggml_type;
use crate::error::{Error, Result};

/// The value of a field. Numbers are widened, texts and lists borrowed from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A truth value.
    Bool(bool),
    /// An integer of any width.
    Whole(i128),
    /// A float of any width.
    Real(f64),
    /// A text.
    Text(&'a str),
    /// A list of anything but lists.
    List(List<'a>),
}

/// A list whose elements were checked to be in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// The elements, in order.
    pub fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = Rest(self.bytes);
        (0..self.len).map_while(move |_| rest.value(self.kind).ok())
    }

    /// The number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Tells whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// A tensor and where its values lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The longest stride first, the reverse of ggml's order.
    pub shape: Vec<usize>,
    /// The type of its values.
    pub kind: GgmlType,
    /// Its bytes within the file.
    pub range: Range<usize>,
}

/// The metadata and tensor entries of a file, by name.
#[derive(Debug)]
pub struct Header<'a> {
    /// The fields.
    pub fields: BTreeMap<&'a str, Value<'a>>,
    /// The tensors; all lie within the file.
    pub tensors: BTreeMap<&'a str, TensorInfo>,
}

/// The bytes not read yet.
struct Rest<'a>(&'a [u8]);

const TEXT: u32 = 8;
const LIST: u32 = 9;

impl<'a> Rest<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(n).ok().and_then(|n| self.0.split_off(..n));
        taken.ok_or_else(|| format!("ends before {n} bytes that should follow").into())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("ends too early")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<&'a str> {
        let n = self.u64()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| "has text that is not UTF-8".into())
    }

    fn value(&mut self, kind: u32) -> Result<Value<'a>> {
        Ok(match kind {
            0 => Value::Whole(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Whole(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Whole(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Real(f32::from_le_bytes(self.bytes()?).into()),
            7 => match self.bytes()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("has {other} for a boolean").into()),
            },
            TEXT => Value::Text(self.text()?),
            LIST => Value::List(self.list()?),
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Real(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("holds a field of unknown type {other}").into()),
        })
    }

    fn list(&mut self) -> Result<List<'a>> {
        let (kind, n) = (self.u32()?, self.u64()?);
        let start = self.0;
        let width = match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            TEXT => None,
            LIST => return Err("holds lists of lists".into()),
            other => return Err(format!("holds a list of unknown type {other}").into()),
        };
        match width {
            Some(width) => {
                let n = n.checked_mul(width).ok_or("holds an impossible list")?;
                self.take(n)?;
            }
            // Each text takes bytes of the file, so this ends.
            None => {
                for _ in 0..n {
                    self.text()?;
                }
            }
        }
        let len = usize::try_from(n).map_err(|_| "holds an impossible list")?;
        let bytes = &start[..start.len() - self.0.len()];
        Ok(List { kind, len, bytes })
    }
}

impl<'a> Header<'a> {
    /// Reads the front of `file`.
    ///
    /// # Errors
    /// [`Error::Malformed`], or [`Error::Unsupported`] for a version or type that is not read.
    pub fn read(file: &'a [u8]) -> Result<Self> {
        let mut rest = Rest(file);
        if rest.bytes()? != *b"GGUF" {
            return Err(
                "is not a GGUF file (a base is a GGUF file or a Hugging Face folder)".into(),
            );
        }
        check_version(rest.u32()?)?;
        let (tensors, fields) = (rest.u64()?, rest.u64()?);
        let mut header = Header {
            fields: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        for _ in 0..fields {
            let name = rest.text()?;
            let kind = rest.u32()?;
            let value = rest
                .value(kind)
                .map_err(|e| e.within(format!("`{name}`:")))?;
            if header.fields.insert(name, value).is_some() {
                return Err(format!("says `{name}` twice").into());
            }
        }
        let mut offsets = Vec::new();
        for _ in 0..tensors {
            let name = rest.text()?;
            let (shape, kind, offset) =
                tensor(&mut rest).map_err(|e| e.within(format!("`{name}`")))?;
            offsets.push((name, shape, kind, offset));
        }
        let align = match header.fields.get("general.alignment") {
            None => 32,
            Some(Value::Whole(n @ 1..=0x10_0000)) if n.count_ones() == 1 => *n as usize,
            Some(_) => return Err("has a `general.alignment` that is not a power of two".into()),
        };
        let start = (file.len() - rest.0.len()).next_multiple_of(align);
        for (name, shape, kind, offset) in offsets {
            let range = place(&shape, kind, start, offset).filter(|r| r.end <= file.len());
            let Some(range) = range else {
                return Err(format!(
                    "`{name}` {shape:?} lies beyond the end of the file, which was downloaded or \
                     copied in part"
                )
                .into());
            };
            let info = TensorInfo { shape, kind, range };
            if header.tensors.insert(name, info).is_some() {
                return Err(format!("holds the tensor `{name}` twice").into());
            }
        }
        Ok(header)
    }
}

/// Refuses versions of the format that are not read.
fn check_version(version: u32) -> Result<()> {
    let why = match version {
        2 | 3 => return Ok(()),
        1 => "is of GGUF version 1; convert it to version 3".to_owned(),
        other if other.swap_bytes() < 16 => {
            "is a big-endian GGUF file; convert it to little-endian".to_owned()
        }
        other => format!("is of GGUF version {other}; known are 2 and 3"),
    };
    Err(Error::unsupported(why))
}

/// Shape, type and offset of a tensor.
fn tensor(rest: &mut Rest<'_>) -> Result<(Vec<usize>, GgmlType, u64)> {
    let n = rest.u32()?;
    if !(1..=4).contains(&n) {
        return Err(format!("has {n} dimensions").into());
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| Error::from("is too large"));
    let dims = (0..n).map(|_| size(rest.u64()?));
    let mut shape = dims.collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let kind = ggml_type(rest.u32()?)?;
    Ok((shape, kind, rest.u64()?))
}

/// The bytes of a tensor in a file whose values begin at `start`, or nothing where there are none.
fn place(shape: &[usize], kind: GgmlType, start: usize, offset: u64) -> Option<Range<usize>> {
    let (width, above) = shape.split_last()?;
    let rows = above.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    // No row has as many values, so its bytes can be counted.
    let row = (*width < usize::MAX / 64).then(|| kind.row_bytes(*width))?;
    let from = start.checked_add(usize::try_from(offset).ok()?)?;
    Some(from..from.checked_add(row.checked_mul(rows)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(to: &mut Vec<u8>, text: &str) {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    }

    /// A file with a field of each kind and one tensor.
    fn small() -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend([1u64, 3].map(u64::to_le_bytes).concat());
        text(&mut file, "general.architecture");
        file.extend(8u32.to_le_bytes());
        text(&mut file, "llama");
        text(&mut file, "n");
        file.extend([5u32, u32::MAX].map(u32::to_le_bytes).concat());
        text(&mut file, "words");
        file.extend([9u32, 8].map(u32::to_le_bytes).concat());
        file.extend(2u64.to_le_bytes());
        text(&mut file, "a");
        text(&mut file, "bc");
        text(&mut file, "w");
        file.extend(2u32.to_le_bytes());
        file.extend([32u64, 2].map(u64::to_le_bytes).concat());
        file.extend(8u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.resize(file.len().next_multiple_of(32) + 68, 7);
        file
    }

    #[test]
    fn fields_and_tensors_are_found() {
        let file = small();
        let header = Header::read(&file).unwrap();
        assert_eq!(header.fields["general.architecture"], Value::Text("llama"));
        assert_eq!(header.fields["n"], Value::Whole(-1));
        let Value::List(words) = header.fields["words"] else {
            panic!("words are a list");
        };
        let words: Vec<_> = words.iter().collect();
        assert_eq!(words, [Value::Text("a"), Value::Text("bc")]);
        let info = &header.tensors["w"];
        assert_eq!(info.shape, [2, 32]);
        assert_eq!(info.range, file.len() - 68..file.len());
    }

    #[test]
    fn claims_beyond_the_file_are_refused() {
        let file = small();
        // Every count and size, made enormous; every end, too early.
        for at in 8..file.len() - 68 - 8 {
            for claim in [u64::MAX, 1 << 62, 1 << 40] {
                let mut file = file.clone();
                file[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                let _ = Header::read(&file);
            }
        }
        for end in 0..file.len() - 68 {
            assert!(Header::read(&file[..end]).is_err(), "{end}");
        }
        let cut = Header::read(&file[..file.len() - 1])
            .unwrap_err()
            .to_string();
        assert!(cut.contains("beyond the end"), "{cut}");
        let mut twice = file;
        let at = twice.windows(5).position(|w| w == b"words").unwrap();
        twice[at - 8..at].copy_from_slice(&1u64.to_le_bytes());
        twice.splice(at..at + 5, *b"n");
        let said = Header::read(&twice).unwrap_err().to_string();
        assert!(said.contains("`n` twice"), "{said}");
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..220, byte: u8, more in 0usize..220, other: u8) {
            let mut file = small();
            let n = file.len();
            file[at % n] = byte;
            file[more % n] = other;
            if let Ok(header) = Header::read(&file) {
                for value in header.fields.values() {
                    if let Value::List(list) = value {
                        prop_assert!(list.iter().count() <= n);
                    }
                }
            }
        }
    }
}
