//! Bytes unpacked, never to more than is allowed.

use std::io::{Cursor, Read};

use super::Why;
use super::budget::Budget;

/// Compression of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
    /// bzip2, of one stream or several.
    Bzip2,
}

impl Packing {
    /// The packing that the first of `bytes` tell; no JSON begins like this.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Packing::Bzip2),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
        }
    }

    /// All that `bytes` unpack to.
    pub(super) fn unpack(self, bytes: &[u8], budget: &Budget) -> Why<Vec<u8>> {
        let damaged = |e: &dyn std::fmt::Display| {
            let name = self.name();
            format!("its {name} data is damaged or cut off ({e})")
        };
        let mut reader: Box<dyn Read + '_> = match self {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(bytes)),
            Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(bytes)),
            Packing::Zstd => {
                let reader = zstd::stream::read::Decoder::with_buffer(bytes);
                Box::new(reader.map_err(|e| damaged(&e))?)
            }
        };
        let (mut out, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let n = reader.read(&mut piece).map_err(|e| damaged(&e))?;
            let Some(read) = piece.get(..n).filter(|read| !read.is_empty()) else {
                return Ok(out);
            };
            budget.spend(n)?;
            out.extend_from_slice(read);
        }
    }
}

/// The `size` bytes that `reader` gives, paid for already; `None` if it gives another number.
fn exactly(reader: impl Read, size: usize) -> Why<Option<Vec<u8>>> {
    let mut out = Vec::with_capacity(size);
    let limit = (size as u64).saturating_add(1);
    let read = reader.take(limit).read_to_end(&mut out);
    read.map_err(|e| e.to_string())?;
    Ok((out.len() == size).then_some(out))
}

/// `bytes` of gzip unpacked to `size` bytes.
pub(super) fn gzip(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    exactly(flate2::bufread::MultiGzDecoder::new(bytes), size)
}

/// `bytes` of zstd unpacked to `size` bytes.
pub(super) fn zstd(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    let out = zstd::bulk::decompress(bytes, size).map_err(|e| e.to_string())?;
    Ok((out.len() == size).then_some(out))
}

/// `bytes` of snappy's raw format unpacked to `size` bytes.
pub(super) fn snappy(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    // The decoder makes room for what the bytes claim.
    match snap::raw::decompress_len(bytes).map_err(|e| e.to_string())? == size {
        true => { snap::raw::Decoder::new().decompress_vec(bytes) }
            .map(Some)
            .map_err(|e| e.to_string()),
        false => Ok(None),
    }
}

/// `bytes` of brotli unpacked to `size` bytes.
pub(super) fn brotli(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
    let memory = StandardAlloc::default;
    // Without the large windows that brotli's own standard does not have: they claim gigabytes.
    let mut state = BrotliState::new_strict(memory(), memory(), memory());
    let mut out = vec![0; size];
    let (mut left, mut from, mut room, mut to, mut all) = (bytes.len(), 0, size, 0, 0);
    let done = BrotliDecompressStream(
        &mut left, &mut from, bytes, &mut room, &mut to, &mut out, &mut all, &mut state,
    );
    let whole = matches!(done, BrotliResult::ResultSuccess) && room == 0 && left == 0;
    Ok(whole.then_some(out))
}

/// `bytes` of an LZ4 block unpacked to `size` bytes.
pub(super) fn lz4_block(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    let mut out = vec![0; size];
    let written = lz4_flex::block::decompress_into(bytes, &mut out).map_err(|e| e.to_string())?;
    Ok((written == size).then_some(out))
}

/// `bytes` of LZ4 frames unpacked to `size` bytes.
pub(super) fn lz4_frame(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    exactly(lz4_flex::frame::FrameDecoder::new(Cursor::new(bytes)), size)
}

/// Decompresses parquet's deprecated LZ4 codec to `size` bytes: Hadoop's framing, where each block
/// follows its two sizes; some writers emit a plain frame or a bare block instead.
pub(super) fn lz4_hadoop(bytes: &[u8], size: usize) -> Why<Option<Vec<u8>>> {
    let blocks = || -> Option<Vec<u8>> {
        let (mut rest, mut out) = (bytes, Vec::with_capacity(size));
        while !rest.is_empty() {
            let (unpacked, after) = rest.split_first_chunk()?;
            let (packed, after) = after.split_first_chunk()?;
            let unpacked = usize::try_from(u32::from_be_bytes(*unpacked)).ok()?;
            let packed = usize::try_from(u32::from_be_bytes(*packed)).ok()?;
            let (block, after) = after.split_at_checked(packed)?;
            if unpacked > size - out.len() {
                return None;
            }
            out.extend(lz4_block(block, unpacked).ok()??);
            rest = after;
        }
        (out.len() == size).then_some(out)
    };
    if let Some(out) = blocks() {
        return Ok(Some(out));
    }
    match lz4_frame(bytes, size) {
        Ok(Some(out)) => Ok(Some(out)),
        _ => lz4_block(bytes, size),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(text: &[u8]) -> [Vec<u8>; 3] {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(text).unwrap();
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bz.write_all(text).unwrap();
        let zst = zstd::bulk::compress(text, 3).unwrap();
        [gz.finish().unwrap(), bz.finish().unwrap(), zst]
    }

    #[test]
    fn whole_files_unpack_within_their_budget() {
        for file in packed(b"some rows\n") {
            let packing = Packing::of(&file).unwrap();
            let unpack = |bytes: &[u8]| packing.unpack(bytes, &Budget::new(bytes.len() as u64));
            assert_eq!(unpack(&file).unwrap(), b"some rows\n", "{packing:?}");
            // Several one after another, as `cat` and block-wise writers make them.
            let twice = [&file[..], &file].concat();
            assert_eq!(unpack(&twice).unwrap(), b"some rows\nsome rows\n");
            for end in 4..file.len() {
                let error = unpack(&file[..end]).unwrap_err();
                assert!(error.contains("damaged or cut off"), "{packing:?} {error}");
            }
        }
        for file in packed(&vec![b' '; 80 << 20]) {
            let packing = Packing::of(&file).unwrap();
            let error = packing.unpack(&file, &Budget::new(file.len() as u64));
            assert!(error.unwrap_err().contains("unpacks to more than"));
        }
    }

    #[test]
    fn pages_unpack_to_their_size_or_not_at_all() {
        let text = b"abcabcabcabc".repeat(20);
        let block = lz4_flex::block::compress(&text);
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        frame.write_all(&text).unwrap();
        let frame = frame.finish().unwrap();
        let mut hadoop = Vec::new();
        for part in [&text[..100], &text[100..]] {
            let packed = lz4_flex::block::compress(part);
            hadoop.extend((part.len() as u32).to_be_bytes());
            hadoop.extend((packed.len() as u32).to_be_bytes());
            hadoop.extend(packed);
        }
        let [gz, ..] = packed(&text);
        type Codec = fn(&[u8], usize) -> Why<Option<Vec<u8>>>;
        let all: [(Codec, &[u8]); 6] = [
            (gzip, &gz),
            (lz4_block, &block),
            (lz4_frame, &frame),
            (lz4_hadoop, &hadoop),
            (lz4_hadoop, &frame),
            (lz4_hadoop, &block),
        ];
        for (i, (codec, bytes)) in all.into_iter().enumerate() {
            assert_eq!(
                codec(bytes, text.len()).unwrap().as_ref(),
                Some(&text),
                "{i}"
            );
            for size in [0, text.len() - 1, text.len() + 1] {
                assert!(!matches!(codec(bytes, size), Ok(Some(_))), "{i} {size}");
            }
        }
    }
}
