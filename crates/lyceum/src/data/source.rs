//! The text in a file: unpacked, and as UTF-8.

use std::borrow::Cow;

use lyceum_formats::compression::{Budget, Packing};

use super::json::Json;

/// An error in a file, with its line if known.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: Option<usize>,
    pub(super) why: String,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Fault { line: None, why }
    }
}

impl From<lyceum_formats::Error> for Fault {
    fn from(error: lyceum_formats::Error) -> Self {
        error.to_string().into()
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

/// First bytes of file formats that are not JSON, with the error text for each.
const OTHERS: [(&[u8], &str); 7] = [
    (LFS, POINTER),
    (b"PAR1", "it is a parquet file; name it .parquet"),
    (b"ARROW1", "it is an Arrow file; name it .arrow"),
    (b"\xff\xff\xff\xff", "it is an Arrow stream; name it .arrow"),
    (b"PK\x03\x04", "it is a zip archive; unpack it"),
    (
        b"\xfd7zXZ",
        "it is compressed by xz, which is not read; gzip, zstd and bzip2 are",
    ),
    (
        b"\x04\x22\x4d\x18",
        "it is compressed by lz4, which is not read; gzip, zstd and bzip2 are",
    ),
];

/// First bytes of a Git LFS pointer file.
pub(super) const LFS: &[u8] = b"version https://git-lfs";
/// The error text for such a file.
pub(super) const POINTER: &str =
    "it is a pointer of Git LFS and not the data itself; fetch that with `git lfs pull`";

/// The text in `bytes`: unpacked if they are packed, from UTF-16 if they are in that.
pub(super) fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let Some(packing) = Packing::of(bytes) else {
        return plain(bytes);
    };
    let unpacked = packing.unpack(bytes, &Budget::new(bytes.len() as u64))?;
    if Packing::of(&unpacked).is_some() {
        return Err("it is packed twice; unpack it once".into());
    }
    plain(&unpacked).map(|text| Cow::Owned(text.into_owned()))
}

fn plain(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    if let Some((_, why)) = OTHERS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Err((*why).into());
    }
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            Err("it is in UTF-32, which is not read; save it as UTF-8".into())
        }
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        // What a JSON text begins with, in two bytes each.
        [b'{' | b'[', 0, ..] => wide(bytes, u16::from_le_bytes),
        [0, b'{' | b'[', ..] => wide(bytes, u16::from_be_bytes),
        _ => narrow(bytes).map(Cow::Borrowed),
    }
}

fn narrow(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let byte = bytes.get(good.len()).copied().unwrap_or_default();
        let read = std::str::from_utf8(good).unwrap_or_default();
        // The marks of line ends are the same in both.
        let line = read.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Fault {
            line: Some(line),
            why: format!("it is not UTF-8 (byte 0x{byte:02x}); convert it, as by iconv -t UTF-8"),
        }
    })
}

fn wide(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, Fault> {
    let (units, rest) = bytes.as_chunks();
    let text: Result<String, _> = char::decode_utf16(units.iter().copied().map(unit)).collect();
    match text {
        Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
        _ => Err("it is in UTF-16 and damaged or cut off; save it as UTF-8".into()),
    }
}

/// Arrangement of the rows in a text.
#[derive(Debug, PartialEq)]
pub(super) enum Shape {
    /// One after another: a line each, or over several lines.
    Lines,
    /// In a list that begins where a reader that has gone over so many bytes is.
    List(usize),
    /// Not at all: it holds none of the fields of a row.
    Nothing,
}

/// The arrangement of rows with `fields` in `text`, judged by its first value.
pub(super) fn shape(text: &str, fields: &[&str]) -> Shape {
    let mut json = Json::new(text);
    match json.peek() {
        Some(b'[') => match first(json.clone(), fields) {
            true => Shape::List(json.offset()),
            false => Shape::Nothing,
        },
        Some(b'{') => wrapped(json, fields),
        _ => Shape::Lines,
    }
}

/// Returns `true` if the list that follows is empty, truncated, or begins with a row.
fn first(mut json: Json<'_>, fields: &[&str]) -> bool {
    let mut row = true;
    let _ = json.list(|json, _| {
        row = json.peek() == Some(b'{') && is_row(json, fields);
        Err(String::new())
    });
    row
}

fn is_row(json: &mut Json<'_>, fields: &[&str]) -> bool {
    let mut row = false;
    let read = json.object(|json, name| {
        row |= fields.contains(&name);
        json.skip()
    });
    row || read.is_err()
}

/// The shape of a text whose first value is an object: a row, or `{"data": [...]}`, in which
/// pandas and others wrap them.
fn wrapped(mut json: Json<'_>, fields: &[&str]) -> Shape {
    let (mut row, mut list) = (false, None);
    let read = json.object(|json, name| {
        row |= fields.contains(&name);
        if name == "data" && json.peek() == Some(b'[') && first(json.clone(), fields) {
            list = Some(json.offset());
        }
        json.skip()
    });
    match (row || read.is_err(), list) {
        (true, _) => Shape::Lines,
        (false, Some(at)) if json.peek().is_none() => Shape::List(at),
        (false, _) => Shape::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_read_or_named() {
        let row = "{\"a\": \"é😀\"}\n";
        let wide = |unit: fn(u16) -> [u8; 2], mark: bool| -> Vec<u8> {
            let mark = mark.then_some(0xfeff);
            mark.into_iter()
                .chain(row.encode_utf16())
                .flat_map(unit)
                .collect()
        };
        for mark in [true, false] {
            assert_eq!(text(&wide(u16::to_le_bytes, mark)).unwrap(), row);
            assert_eq!(text(&wide(u16::to_be_bytes, mark)).unwrap(), row);
        }
        let mut cut = wide(u16::to_le_bytes, true);
        cut.pop();
        let named = |bytes: &[u8], line: Option<usize>, why: &str| {
            let fault = text(bytes).unwrap_err();
            assert!(fault.why.contains(why), "{}", fault.why);
            assert_eq!(fault.line, line);
        };
        named(&cut, None, "UTF-16");
        named(b"\xff\xfe\0\0", None, "UTF-32");
        named(b"{}\n{\"caf\xe9\": 1}", Some(2), "not UTF-8 (byte 0xe9)");
        named(b"PAR1...", None, "name it .parquet");
        named(
            b"version https://git-lfs.github.com/spec/v1\n",
            None,
            "git lfs pull",
        );
        let twice = zstd::bulk::compress(&zstd::bulk::compress(b"{}", 1).unwrap(), 1).unwrap();
        named(&twice, None, "packed twice");
    }

    #[test]
    fn shapes_are_told_apart() {
        let shape = |text: &str| shape(text, &["a"]);
        assert_eq!(shape("\n {\"a\": 1}\n{}"), Shape::Lines);
        assert_eq!(shape(" [{\"a\": 1}]"), Shape::List(1));
        assert_eq!(shape("[]"), Shape::List(0));
        assert_eq!(shape("{\"v\": 1, \"data\": [{\"a\": 1}]}"), Shape::List(17));
        // A row that happens to have such a field.
        assert_eq!(shape("{\"data\": [{\"a\": 1}], \"a\": 1}"), Shape::Lines);
        for other in [
            "{\"b\": 1}",
            "{\"data\": 3}",
            "{\"data\": [1]}",
            "[1]",
            "[{\"b\": 1}]",
            "{}",
        ] {
            assert_eq!(shape(other), Shape::Nothing, "{other}");
        }
        assert_eq!(shape("{\"data\": [{\"a\": 1}]} {}"), Shape::Nothing);
        // Cut off or malformed: reading it says how.
        for bad in ["{", "[{", "{\"b\"", "", "x", "[{\"b\": nul}]"] {
            assert_ne!(shape(bad), Shape::Nothing, "{bad}");
        }
    }
}
