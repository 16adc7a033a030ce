//! One tensor of a checkpoint, as it lies in a file: its values in f32, a few at a time.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use half::{bf16, f16};
use lyceum_kernels::map::Map;
use lyceum_kernels::quantised::{self, Format};

use crate::error::{Error, Result};

/// Values converted at once when a tensor is only looked at: a multiple of every block.
const CHUNK: usize = 1 << 16;

/// Bytes that hold tensors.
#[derive(Debug, Clone)]
pub(super) enum Bytes<'a> {
    Slice(&'a [u8]),
    Map(Arc<Map>),
}

impl Bytes<'_> {
    pub(super) fn get(&self) -> &[u8] {
        match self {
            Bytes::Slice(bytes) => bytes,
            Bytes::Map(map) => map,
        }
    }
}

/// Storage types of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StorageType {
    F64,
    F32,
    F16,
    Bf16,
    /// Eight bits: a sign, four of the exponent, three of the fraction; no infinities.
    F8E4M3,
    /// Eight bits: the upper half of an f16.
    F8E5M2,
    /// Quantised blocks along the rows, of which each is a whole number.
    Blocks(Format),
}

impl StorageType {
    /// Bytes of `n` successive values of a row.
    pub(super) fn bytes(self, n: usize) -> usize {
        match self {
            StorageType::F64 => 8 * n,
            StorageType::F32 => 4 * n,
            StorageType::F8E4M3 | StorageType::F8E5M2 => n,
            StorageType::F16 | StorageType::Bf16 => 2 * n,
            StorageType::Blocks(format) => format.row_bytes(n),
        }
    }

    /// The values of `bytes`, put at the start of `out`.
    fn convert<'a>(self, bytes: &[u8], out: &'a mut [f32]) -> &'a [f32] {
        fn put<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) -> usize {
            let parts = bytes.as_chunks::<N>().0;
            let both = out.iter_mut().zip(parts);
            both.for_each(|(out, part)| *out = value(*part));
            parts.len()
        }
        let n = match self {
            StorageType::F64 => put(bytes, out, |b| f64::from_le_bytes(b) as f32),
            StorageType::F32 => put(bytes, out, f32::from_le_bytes),
            StorageType::F8E4M3 => put(bytes, out, |[b]| e4m3(b)),
            StorageType::F8E5M2 => {
                put(bytes, out, |[b]| f16::from_bits(u16::from(b) << 8).to_f32())
            }
            StorageType::F16 => put(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            StorageType::Bf16 => put(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            StorageType::Blocks(format) => {
                let n = bytes.len() / format.block_bytes() * format.block();
                format.decode(bytes, &mut out[..n]);
                n
            }
        };
        &out[..n]
    }
}

/// The value of eight bits: 1 of sign, 4 of exponent (bias 7), 3 of fraction; all ones is no
/// number.
fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits < 128 { size } else { -size }
}

/// RowOrder of a matrix's rows, or a vector's values, in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// In their order.
    Plain,
    /// The two halves of each of so many heads interleaved: 0, n/2, 1, n/2 + 1, ...
    Pairs(usize),
    /// Those of q, k and v of each of so many heads apart: all of q, all of k, all of v.
    Parts(usize),
}

impl RowOrder {
    /// The position in the file of row `row` of `n`.
    fn place(self, row: usize, n: usize) -> usize {
        match self {
            RowOrder::Plain => row,
            RowOrder::Pairs(heads) => {
                let dim = n / heads;
                let (head, at) = (row / dim, row % dim);
                let (half, pair) = (at / (dim / 2), at % (dim / 2));
                head * dim + 2 * pair + half
            }
            RowOrder::Parts(heads) => {
                let dim = n / (3 * heads);
                let (head, part, at) = (row / (3 * dim), row / dim % 3, row % dim);
                (part * heads + head) * dim + at
            }
        }
    }

    /// Returns `true` if `n` rows can be stored in this order.
    fn fits(self, n: usize) -> bool {
        match self {
            RowOrder::Plain => true,
            RowOrder::Pairs(heads) => heads > 0 && n.is_multiple_of(2 * heads),
            RowOrder::Parts(heads) => heads > 0 && n.is_multiple_of(3 * heads),
        }
    }
}

#[derive(Debug)]
enum Values<'a> {
    /// On disk, or in a file held in memory.
    Raw {
        bytes: Bytes<'a>,
        range: Range<usize>,
        lay: StorageType,
        order: RowOrder,
    },
    /// MlpSaved here, f32.
    Tensor(Tensor),
}

/// A tensor and where its values are.
#[derive(Debug)]
pub(super) struct TensorView<'a> {
    pub(super) shape: Vec<usize>,
    values: Values<'a>,
}

impl<'a> TensorView<'a> {
    /// MlpSaved here, f32.
    pub(super) fn made(tensor: Tensor) -> Self {
        TensorView {
            shape: tensor.dims().to_vec(),
            values: Values::Tensor(tensor),
        }
    }

    /// A tensor in `range` of a file, which must be as long as the shape requires.
    ///
    /// # Errors
    /// When it is not, or too short for its type; the text says how.
    pub(super) fn new(
        (bytes, range): (Bytes<'a>, Range<usize>),
        shape: Vec<usize>,
        lay: StorageType,
    ) -> Result<Self, String> {
        let width = shape.last().copied().unwrap_or(1);
        let above = shape.len().saturating_sub(1);
        let mut rows = shape[..above].iter().copied();
        let rows = rows.try_fold(1, usize::checked_mul);
        if let StorageType::Blocks(format) = lay
            && !width.is_multiple_of(format.block())
        {
            let block = format.block();
            return Err(format!("has rows of {width}, no multiple of {block}"));
        }
        // A width beyond the file's length is refused before it is multiplied.
        let row = (width <= 32 * bytes.get().len()).then(|| lay.bytes(width));
        let wanted = row.zip(rows).and_then(|(row, rows)| row.checked_mul(rows));
        if wanted != Some(range.len()) || range.end > bytes.get().len() {
            return Err(format!("is {shape:?} in {} bytes", range.len()));
        }
        let values = Values::Raw {
            bytes,
            range,
            lay,
            order: RowOrder::Plain,
        };
        Ok(TensorView { shape, values })
    }

    /// Returns the tensor with its rows declared to be in this order.
    ///
    /// # Errors
    /// When it has too few rows.
    pub(super) fn ordered(mut self, by: RowOrder) -> Result<Self, String> {
        let rows = self.shape.first().copied().unwrap_or(1);
        if !by.fits(rows) {
            return Err(format!("has {rows} rows, too few for its heads"));
        }
        if let Values::Raw { order, .. } = &mut self.values {
            *order = by;
        }
        Ok(self)
    }

    /// The storage type; f32 for tensors made in memory.
    pub(super) fn lay(&self) -> StorageType {
        match &self.values {
            Values::Raw { lay, .. } => *lay,
            Values::Tensor(_) => StorageType::F32,
        }
    }

    /// Returns `true` if another tensor has this one's shape and values.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub(super) fn same(&self, other: &Self) -> Result<bool> {
        let &[rows, width] = self.shape.as_slice() else {
            return Ok(false);
        };
        if self.shape != other.shape || width == 0 {
            return Ok(self.shape == other.shape);
        }
        // In f32, as they are computed with: one may be kept in another type.
        let step = (CHUNK / width).max(1);
        for first in (0..rows).step_by(step) {
            let n = step.min(rows - first) * width;
            let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
            self.rows(first, &mut a)?;
            other.rows(first, &mut b)?;
            if a != b {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Shows all values in order, some at a time; then lets go of the file's memory.
    pub(super) fn each(&self, mut see: impl FnMut(&[f32])) -> Result<()> {
        let (bytes, range, lay, order) = match &self.values {
            Values::Tensor(tensor) => {
                see(&tensor.flatten_all()?.to_vec1::<f32>()?);
                return Ok(());
            }
            Values::Raw {
                bytes,
                range,
                lay,
                order,
            } => (bytes, range, *lay, *order),
        };
        let mut some = vec![0.0; CHUNK];
        self.row_chunks(&bytes.get()[range.clone()], order, |piece| {
            for piece in piece.chunks(lay.bytes(CHUNK)) {
                see(lay.convert(piece, &mut some));
            }
        });
        if let Bytes::Map(map) = bytes {
            map.release(range.clone());
        }
        Ok(())
    }

    /// The values of the rows of a matrix from row `first` on, as many as `out` has room for; then
    /// lets go of the file's memory. Those rows must exist.
    pub(super) fn rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let (n, width) = match *self.shape.as_slice() {
            [n, width] if width > 0 => (n, width),
            _ => return Err(Error::Mismatch("a matrix has rows".into())),
        };
        let (bytes, range, lay, order) = match &self.values {
            Values::Tensor(tensor) => {
                let rows = tensor.narrow(0, first, out.len() / width)?;
                out.copy_from_slice(&rows.flatten_all()?.to_vec1::<f32>()?);
                return Ok(());
            }
            Values::Raw {
                bytes,
                range,
                lay,
                order,
            } => (bytes, range, *lay, *order),
        };
        let size = lay.bytes(width);
        let (mut start, mut end) = (range.end, range.start);
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let at = range.start + order.place(first + i, n) * size;
            lay.convert(&bytes.get()[at..at + size], out);
            (start, end) = (start.min(at), end.max(at + size));
        }
        if let Bytes::Map(map) = bytes {
            map.release(start..end);
        }
        Ok(())
    }

    /// The bytes in the order of the rows.
    fn row_chunks<'b>(&self, all: &'b [u8], order: RowOrder, mut see: impl FnMut(&'b [u8])) {
        let rows = self.shape.first().copied().unwrap_or(1);
        if order == RowOrder::Plain || rows == 0 {
            return see(all);
        }
        let width = all.len() / rows;
        for row in 0..rows {
            see(&all[order.place(row, rows) * width..][..width]);
        }
    }

    /// Its quantised rows, if it is quantised: mapped where they lie in order, else copied.
    ///
    /// # Errors
    /// When a value is not finite.
    pub(super) fn blocks(&self) -> Result<Option<(Format, quantised::Bytes)>, String> {
        let Values::Raw {
            bytes,
            range,
            lay: StorageType::Blocks(format),
            order,
        } = &self.values
        else {
            return Ok(None);
        };
        let all = &bytes.get()[range.clone()];
        if !format.finite(all) {
            return Err("holds values that are not finite".into());
        }
        if let (Bytes::Map(map), RowOrder::Plain) = (bytes, order) {
            let mapped = quantised::Bytes::Mapped(map.clone(), range.clone());
            return Ok(Some((*format, mapped)));
        }
        let mut own = Vec::with_capacity(all.len());
        self.row_chunks(all, *order, |piece| own.extend_from_slice(piece));
        Ok(Some((*format, quantised::Bytes::Own(own))))
    }
}

/// The error for tensor `name`.
pub(super) fn bad(name: &str, why: impl std::fmt::Display) -> Error {
    Error::format(format!("tensor `{name}`"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_the_file_keeps_them() {
        let order = |order: RowOrder, n| (0..n).map(|row| order.place(row, n)).collect::<Vec<_>>();
        assert_eq!(order(RowOrder::Pairs(2), 8), [0, 2, 1, 3, 4, 6, 5, 7]);
        // Two heads of one value: q0 k0 v0 q1 k1 v1 from q0 q1 k0 k1 v0 v1.
        assert_eq!(order(RowOrder::Parts(2), 6), [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn eight_bits_mean_what_they_mean_to_torch() {
        // What torch gives for these bytes as float8_e4m3fn and as float8_e5m2.
        let four = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x38, 1.0),
            (0xb8, -1.0),
            (0x7e, 448.0),
        ];
        for (bits, value) in four {
            assert_eq!(e4m3(bits), value, "{bits:x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let mut out = [0.0; 4];
        let five = StorageType::F8E5M2.convert(&[0x3c, 0xbc, 0x7b, 0x01], &mut out);
        assert_eq!(five, [1.0, -1.0, 57344.0, 2f32.powi(-16)]);
    }

    #[test]
    fn shapes_that_do_not_fit_the_file_are_refused() {
        let bytes = [0u8; 68];
        let stored = |shape: &[usize], lay, end| {
            TensorView::new((Bytes::Slice(&bytes), 0..end), shape.to_vec(), lay)
        };
        let blocks = StorageType::Blocks(Format::Q8_0);
        assert!(stored(&[2, 32], blocks, 68).is_ok());
        for shape in [
            vec![2, 31],
            vec![3, 32],
            vec![1, usize::MAX],
            vec![usize::MAX, 32],
            vec![usize::MAX, usize::MAX, 32],
        ] {
            assert!(stored(&shape, blocks, 68).is_err(), "{shape:?}");
            assert!(stored(&shape, StorageType::F16, 68).is_err(), "{shape:?}");
        }
        assert!(stored(&[18], StorageType::F32, 72).is_err());
        assert!(stored(&[17], StorageType::F32, 68).is_ok());
    }
}
