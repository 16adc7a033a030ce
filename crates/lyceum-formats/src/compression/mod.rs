//! Compressed files and buffers, unpacked never to more than is allowed.

use std::io::{Cursor, Read};

use crate::error::{Error, Result};

mod budget;

pub use budget::Budget;

/// Compression of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
    /// bzip2, of one stream or several.
    Bzip2,
}

impl Packing {
    /// The packing that the first of `bytes` tell; no JSON begins like this.
    pub fn of(bytes: &[u8]) -> Option<Self> {
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

    /// Unpacks all of `bytes`.
    ///
    /// # Errors
    /// When they are damaged or unpack to more than `budget` has left.
    pub fn unpack(self, bytes: &[u8], budget: &Budget) -> Result<Vec<u8>> {
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
pub(crate) fn exactly(reader: impl Read, size: usize) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::with_capacity(size);
    let limit = (size as u64).saturating_add(1);
    let read = reader.take(limit).read_to_end(&mut out);
    read.map_err(|e| Error::from(e.to_string()))?;
    Ok((out.len() == size).then_some(out))
}

/// `bytes` of zstd unpacked to `size` bytes.
pub(crate) fn zstd(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    let out = zstd::bulk::decompress(bytes, size).map_err(|e| Error::from(e.to_string()))?;
    Ok((out.len() == size).then_some(out))
}

/// `bytes` of LZ4 frames unpacked to `size` bytes.
pub(crate) fn lz4_frame(bytes: &[u8], size: usize) -> Result<Option<Vec<u8>>> {
    exactly(lz4_flex::frame::FrameDecoder::new(Cursor::new(bytes)), size)
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
                let error = unpack(&file[..end]).unwrap_err().to_string();
                assert!(error.contains("damaged or cut off"), "{packing:?} {error}");
            }
        }
        for file in packed(&vec![b' '; 80 << 20]) {
            let packing = Packing::of(&file).unwrap();
            let error = packing.unpack(&file, &Budget::new(file.len() as u64));
            assert!(matches!(error, Err(Error::TooLarge(_))));
            assert!(
                error
                    .unwrap_err()
                    .to_string()
                    .contains("unpacks to more than")
            );
        }
    }
}
