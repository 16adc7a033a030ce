//! The header of a GGUF file: typed fields, and where each tensor lies.
//!
//! Source: the GGUF specification, versions 2 and 3. A file comes from anywhere, so nothing is
//! believed before it is checked against the file's length: lists are kept as the bytes they are,
//! and two fields or tensors of one name are refused.

use std::collections::BTreeMap;
use std::ops::Range;

use lyceum_kernels::quantised::Format;

use super::super::stored::Lay;

/// The value of a field. Numbers are widened, texts and lists borrowed from the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Bool(bool),
    Whole(i128),
    Real(f64),
    Text(&'a str),
    List(List<'a>),
}

/// A list whose elements were checked to be in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct List<'a> {
    kind: u32,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// The elements, in order.
    pub(super) fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = Rest(self.bytes);
        (0..self.len).map_while(move |_| rest.value(self.kind).ok())
    }

    pub(super) fn len(self) -> usize {
        self.len
    }
}

/// A tensor and where its values lie in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The longest stride first.
    pub(super) shape: Vec<usize>,
    pub(super) lay: Lay,
    pub(super) range: Range<usize>,
}

/// The metadata and tensor entries of a file.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) fields: BTreeMap<&'a str, Value<'a>>,
    pub(super) tensors: BTreeMap<&'a str, Entry>,
}

/// The bytes not read yet.
struct Rest<'a>(&'a [u8]);

const TEXT: u32 = 8;
const LIST: u32 = 9;

impl<'a> Rest<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(n).ok().and_then(|n| self.0.split_off(..n));
        taken.ok_or_else(|| format!("ends before {n} bytes that should follow"))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("ends too early")?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let n = self.u64()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| "has text that is not UTF-8".into())
    }

    fn value(&mut self, kind: u32) -> Result<Value<'a>, String> {
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
                [other] => return Err(format!("has {other} for a boolean")),
            },
            TEXT => Value::Text(self.text()?),
            LIST => Value::List(self.list()?),
            10 => Value::Whole(self.u64()?.into()),
            11 => Value::Whole(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Real(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("holds a field of unknown type {other}")),
        })
    }

    fn list(&mut self) -> Result<List<'a>, String> {
        let (kind, n) = (self.u32()?, self.u64()?);
        let start = self.0;
        let width = match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            TEXT => None,
            LIST => return Err("holds lists of lists".into()),
            other => return Err(format!("holds a list of unknown type {other}")),
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
    /// When the front is malformed; the text says how.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let mut rest = Rest(file);
        if rest.bytes()? != *b"GGUF" {
            return Err(
                "is not a GGUF file (a base is a GGUF file or a Hugging Face folder)".into(),
            );
        }
        match rest.u32()? {
            2 | 3 => {}
            1 => return Err("is of GGUF version 1; convert it to version 3".into()),
            other if other.swap_bytes() < 16 => {
                return Err("is a big-endian GGUF file; convert it to little-endian".into());
            }
            other => return Err(format!("is of GGUF version {other}; known are 2 and 3")),
        }
        let (tensors, fields) = (rest.u64()?, rest.u64()?);
        let mut header = Header {
            fields: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        for _ in 0..fields {
            let name = rest.text()?;
            let kind = rest.u32()?;
            let value = rest.value(kind).map_err(|e| format!("`{name}`: {e}"))?;
            if header.fields.insert(name, value).is_some() {
                return Err(format!("says `{name}` twice"));
            }
        }
        let mut offsets = Vec::new();
        for _ in 0..tensors {
            let name = rest.text()?;
            let (shape, lay, offset) = tensor(&mut rest).map_err(|e| format!("`{name}` {e}"))?;
            offsets.push((name, shape, lay, offset));
        }
        let align = match header.fields.get("general.alignment") {
            None => 32,
            Some(Value::Whole(n @ 1..=0x10_0000)) if n.count_ones() == 1 => *n as usize,
            Some(_) => return Err("has a `general.alignment` that is not a power of two".into()),
        };
        let start = (file.len() - rest.0.len()).next_multiple_of(align);
        for (name, shape, lay, offset) in offsets {
            let range = place(&shape, lay, start, offset).filter(|r| r.end <= file.len());
            let Some(range) = range else {
                return Err(format!(
                    "`{name}` {shape:?} lies beyond the end of the file, which was downloaded or \
                     copied in part"
                ));
            };
            let entry = Entry { shape, lay, range };
            if header.tensors.insert(name, entry).is_some() {
                return Err(format!("holds the tensor `{name}` twice"));
            }
        }
        Ok(header)
    }
}

/// Shape, layout and offset of a tensor.
fn tensor(rest: &mut Rest<'_>) -> Result<(Vec<usize>, Lay, u64), String> {
    let n = rest.u32()?;
    if !(1..=4).contains(&n) {
        return Err(format!("has {n} dimensions"));
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| "is too large".to_owned());
    let dims = (0..n).map(|_| size(rest.u64()?));
    let mut shape = dims.collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let lay = lay(rest.u32()?)?;
    Ok((shape, lay, rest.u64()?))
}

/// The bytes of a tensor in a file whose values begin at `start`, or nothing where there are none.
fn place(shape: &[usize], lay: Lay, start: usize, offset: u64) -> Option<Range<usize>> {
    let (width, above) = shape.split_last()?;
    let rows = above.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
    // No row has as many values, so its bytes can be counted.
    let row = (*width < usize::MAX / 64).then(|| lay.bytes(*width))?;
    let from = start.checked_add(usize::try_from(offset).ok()?)?;
    Some(from..from.checked_add(row.checked_mul(rows)?)?)
}

/// The storage type with ggml's number `id`.
fn lay(id: u32) -> Result<Lay, String> {
    Ok(match id {
        0 => Lay::F32,
        1 => Lay::F16,
        28 => Lay::F64,
        30 => Lay::Bf16,
        2 => Lay::Blocks(Format::Q4_0),
        3 => Lay::Blocks(Format::Q4_1),
        6 => Lay::Blocks(Format::Q5_0),
        7 => Lay::Blocks(Format::Q5_1),
        8 => Lay::Blocks(Format::Q8_0),
        12 => Lay::Blocks(Format::Q4_K),
        13 => Lay::Blocks(Format::Q5_K),
        14 => Lay::Blocks(Format::Q6_K),
        other => {
            let names = [
                (10, "Q2_K"),
                (11, "Q3_K"),
                (16, "IQ2_XXS"),
                (17, "IQ2_XS"),
                (18, "IQ3_XXS"),
                (19, "IQ1_S"),
                (20, "IQ4_NL"),
                (21, "IQ3_S"),
                (22, "IQ2_S"),
                (23, "IQ4_XS"),
                (24, "I8"),
                (25, "I16"),
                (26, "I32"),
                (27, "I64"),
                (29, "IQ1_M"),
                (34, "TQ1_0"),
                (35, "TQ2_0"),
                (39, "MXFP4"),
            ];
            let known = names.iter().find(|(id, _)| *id == other);
            let name = known.map_or_else(|| format!("type {other}"), |(_, name)| (*name).into());
            return Err(format!(
                "is kept as {name}, which is not supported; supported: F64, F32, F16, BF16, \
                 Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
            ));
        }
    })
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
        let entry = &header.tensors["w"];
        assert_eq!(entry.shape, [2, 32]);
        assert_eq!(entry.range, file.len() - 68..file.len());
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
        let cut = Header::read(&file[..file.len() - 1]).unwrap_err();
        assert!(cut.contains("beyond the end"), "{cut}");
        let mut twice = file;
        let at = twice.windows(5).position(|w| w == b"words").unwrap();
        twice[at - 8..at].copy_from_slice(&1u64.to_le_bytes());
        twice.splice(at..at + 5, *b"n");
        let said = Header::read(&twice).unwrap_err();
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
