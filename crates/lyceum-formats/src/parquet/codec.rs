//! Codecs of pages, unpacked to a size that is paid for already.

use crate::compression::{exactly, lz4_frame};
use crate::error::{Error, Result};

/// `bytes` of gzip unpacked to `size` bytes.
pub(super) fn gzip(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    exactly(flate2::bufread::MultiGzDecoder::new(bytes), size)
}

/// `bytes` of snappy's raw format unpacked to `size` bytes.
pub(super) fn snappy(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    // The decoder makes room for what the bytes claim.
    match snap::raw::decompress_len(bytes).map_err(|e| Error::from(e.to_string()))? == size {
        true => { snap::raw::Decoder::new().decompress_vec(bytes) }
            .map(Some)
            .map_err(|e| Error::from(e.to_string())),
        false => Ok(None),
    }
}

/// `bytes` of brotli unpacked to `size` bytes.
pub(super) fn brotli(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
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
pub(super) fn lz4_block(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    let mut out = vec![0; size];
    let written = lz4_flex::block::decompress_into(bytes, &mut out)
        .map_err(|e| Error::from(e.to_string()))?;
    Ok((written == size).then_some(out))
}

/// Decompresses parquet's deprecated LZ4 codec to `size` bytes: Hadoop's framing, where each block
/// follows its two sizes; some writers emit a plain frame or a bare block instead.
pub(super) fn lz4_hadoop(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
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
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(&text).unwrap();
        let gz = gz.finish().unwrap();
        type Codec = fn(&[u8], usize) -> Result<Option<Vec<u8>>>;
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
