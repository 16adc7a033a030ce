//! The zip container of `torch.save`: stored entries only, read by slicing, written 64-aligned.
//!
//! Nothing is ever decompressed and no entry may lie inside another, so what is read is never
//! larger than the file. General readers keep the last of two entries of one name; here a second
//! one is refused.

use crate::error::Result;
use std::collections::BTreeMap;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;

/// Every file a zip begins like this.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let raw = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u16::from_le_bytes(
        *raw.ok_or("the zip container is cut off")?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let raw = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(
        *raw.ok_or("the zip container is cut off")?,
    ))
}

/// Tells whether `mark` stands at `at`.
fn is(bytes: &[u8], at: usize, mark: u32) -> bool {
    u32_at(bytes, at).is_ok_and(|found| found == mark)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let raw = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(
        *raw.ok_or("the zip container is cut off")?,
    ))
}

fn size(claim: u64) -> Result<usize> {
    usize::try_from(claim).map_err(|_| format!("the zip container claims {claim} bytes").into())
}

/// The directory's offset, length and number of entries.
fn directory(bytes: &[u8]) -> Result<(usize, usize, usize)> {
    // The end record is last, but for a comment of at most 64 KiB.
    let last = bytes
        .len()
        .checked_sub(22)
        .ok_or("too short for a zip container")?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last)
        .rev()
        .find(|&at| is(bytes, at, END))
        .ok_or("no end record: the zip container is cut off")?;
    let small = (
        u32_at(bytes, end + 16)?,
        u32_at(bytes, end + 12)?,
        u16_at(bytes, end + 10)?,
    );
    let locator = end.checked_sub(20).filter(|&at| is(bytes, at, LOCATOR64));
    let Some(locator) = locator else {
        return Ok((small.0 as usize, small.1 as usize, small.2.into()));
    };
    let end64 = size(u64_at(bytes, locator + 8)?)?;
    if end64 > locator || u32_at(bytes, end64)? != END64 {
        return Err("its zip64 record is not where it is said to be".into());
    }
    Ok((
        size(u64_at(bytes, end64 + 48)?)?,
        size(u64_at(bytes, end64 + 40)?)?,
        size(u64_at(bytes, end64 + 32)?)?,
    ))
}

/// One entry of the directory.
struct Listed<'a> {
    name: &'a str,
    crc: u32,
    size: u64,
    header: u64,
    /// Length of the record.
    len: usize,
}

fn listed<'a>(bytes: &'a [u8], at: usize) -> Result<Listed<'a>> {
    if u32_at(bytes, at)? != CENTRAL {
        return Err("its directory is damaged".into());
    }
    let (name_len, extra_len) = (u16_at(bytes, at + 28)?, u16_at(bytes, at + 30)?);
    let name = at + 46;
    let extra = name + usize::from(name_len);
    let end = extra + usize::from(extra_len);
    let raw = bytes.get(name..extra).ok_or("its directory is cut off")?;
    let name = std::str::from_utf8(raw).map_err(|_| "an entry's name is not UTF-8")?;
    if u16_at(bytes, at + 8)? & 1 != 0 {
        return Err(format!("entry `{name}` is encrypted").into());
    }
    let mut sizes = [20, 24, 42].map(|field| u32_at(bytes, at + field).map(u64::from));
    if u16_at(bytes, at + 10)? != 0 {
        return Err(format!("entry `{name}` is compressed; torch stores its entries").into());
    }
    let full = |size: &Result<u64>| matches!(size, Ok(size) if *size == u64::from(u32::MAX));
    // In the zip64 field: size, stored size and place, each only if its own field is full.
    let mut field = extra;
    while field + 4 <= end {
        let (id, len) = (
            u16_at(bytes, field)?,
            usize::from(u16_at(bytes, field + 2)?),
        );
        let mut value = field + 4;
        for which in [1, 0, 2] {
            if id == 1 && full(&sizes[which]) && value + 8 <= field + 4 + len {
                sizes[which] = u64_at(bytes, value);
                value += 8;
            }
        }
        field += 4 + len;
    }
    let [stored, size, header] = sizes;
    let (stored, size) = (stored?, size?);
    if stored != size {
        return Err(format!("entry `{name}` says it is {size} bytes, stored as {stored}").into());
    }
    let len = end - at + usize::from(u16_at(bytes, at + 32)?);
    Ok(Listed {
        name,
        crc: u32_at(bytes, at + 16)?,
        size,
        header: header?,
        len,
    })
}

/// The entries of a container, by name.
pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<&str, &[u8]>> {
    let (start, len, count) = directory(bytes)?;
    let directory = start.checked_add(len).and_then(|end| bytes.get(start..end));
    let directory = directory.ok_or("its directory lies outside the file")?;
    let mut entries = BTreeMap::new();
    let mut spans = Vec::new();
    let mut at = 0;
    while at < directory.len() {
        let entry = listed(directory, at)?;
        at += entry.len;
        let (name, header) = (entry.name, size(entry.header)?);
        let outside = || format!("entry `{name}` lies outside the file");
        let local = bytes.get(..start).and_then(|before| before.get(header..));
        let local = local.ok_or_else(outside)?;
        if u32_at(local, 0)? != LOCAL {
            return Err(format!("entry `{name}` is not where the directory says").into());
        }
        let names = usize::from(u16_at(local, 26)?);
        let data = 30 + names + usize::from(u16_at(local, 28)?);
        if local.get(30..30 + names) != Some(name.as_bytes()) {
            return Err(format!("entry `{name}` has another name in its own header").into());
        }
        let end = data.checked_add(size(entry.size)?).ok_or_else(outside)?;
        let content = local.get(data..end).ok_or_else(outside)?;
        spans.push((header, header + end));
        if entries.insert(name, (content, entry.crc)).is_some() {
            return Err(format!("two entries are called `{name}`").into());
        }
    }
    if entries.len() != count {
        let found = entries.len();
        return Err(format!("the zip container claims {count} entries and lists {found}").into());
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err("two of its entries overlap".into());
    }
    // Only now, that no byte is read twice.
    for (name, (content, crc)) in &entries {
        if crc32fast::hash(content) != *crc {
            return Err(format!("entry `{name}` is damaged (its checksum differs)").into());
        }
    }
    Ok(entries
        .into_iter()
        .map(|(name, (content, _))| (name, content))
        .collect())
}

/// A container of these entries, each beginning at a multiple of 64 bytes.
pub(super) fn write(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let small = |n: usize| u32::try_from(n).map_err(|_| "a file above 4 GiB cannot be written");
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let header = small(out.len())?;
        let fixed = out.len() + 30 + name.len() + 4;
        let padding = fixed.next_multiple_of(64) - fixed;
        let (name_len, crc) = (name.len() as u16, crc32fast::hash(content));
        let len = small(content.len())?;
        // Both headers: no time, sizes known, names in UTF-8.
        let mut shared = Vec::new();
        shared.extend([0u16, 0x0800, 0, 0, 0].map(u16::to_le_bytes).concat());
        shared.extend([crc, len, len].map(u32::to_le_bytes).concat());
        shared.extend(name_len.to_le_bytes());
        out.extend(LOCAL.to_le_bytes());
        out.extend(&shared);
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(std::iter::repeat_n(b'Z', padding));
        out.extend(content);
        directory.extend(CENTRAL.to_le_bytes());
        directory.extend(0u16.to_le_bytes());
        directory.extend(&shared);
        directory.extend([0u8; 12]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(entries.len()).map_err(|_| "too many tensors for one file")?;
    let start = small(out.len())?;
    let len = small(directory.len())?;
    out.extend(directory);
    out.extend(END.to_le_bytes());
    out.extend([0, 0, count, count].map(u16::to_le_bytes).concat());
    out.extend([len, start].map(u32::to_le_bytes).concat());
    out.extend(0u16.to_le_bytes());
    Ok(out)
}
