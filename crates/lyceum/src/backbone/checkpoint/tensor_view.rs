//! One tensor of a checkpoint, as it lies in a file: its values in f32, a few at a time.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::map::Map;
use lyceum_kernels::quantised::{self, Format};

use super::storage::{RowOrder, StorageType};
use crate::error::{Error, Result};

/// Values converted at once when a tensor is only looked at: a multiple of every block.
const CHUNK: usize = 1 << 16;

/// Bytes that hold tensors.
#[derive(Debug, Clone)]
pub(in crate::backbone) enum Bytes<'a> {
    Slice(&'a [u8]),
    Map(Arc<Map>),
}

impl Bytes<'_> {
    pub(in crate::backbone) fn get(&self) -> &[u8] {
        match self {
            Bytes::Slice(bytes) => bytes,
            Bytes::Map(map) => map,
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
    /// Made in memory, f32.
    Tensor(Tensor),
}

/// A tensor and where its values are.
#[derive(Debug)]
pub(in crate::backbone) struct TensorView<'a> {
    pub(in crate::backbone) shape: Vec<usize>,
    values: Values<'a>,
}

impl<'a> TensorView<'a> {
    /// Made in memory, f32.
    pub(in crate::backbone) fn made(tensor: Tensor) -> Self {
        TensorView {
            shape: tensor.dims().to_vec(),
            values: Values::Tensor(tensor),
        }
    }

    /// A tensor in `range` of a file, which must be as long as the shape requires.
    ///
    /// # Errors
    /// When it is not, or too short for its type; the text says how.
    pub(in crate::backbone) fn new(
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
    pub(in crate::backbone) fn ordered(mut self, by: RowOrder) -> Result<Self, String> {
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
    pub(in crate::backbone) fn lay(&self) -> StorageType {
        match &self.values {
            Values::Raw { lay, .. } => *lay,
            Values::Tensor(_) => StorageType::F32,
        }
    }

    /// Returns `true` if another tensor has this one's shape and values.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub(in crate::backbone) fn same(&self, other: &Self) -> Result<bool> {
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
    pub(in crate::backbone) fn each(&self, mut see: impl FnMut(&[f32])) -> Result<()> {
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
    pub(in crate::backbone) fn rows(&self, first: usize, out: &mut [f32]) -> Result<()> {
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
    pub(in crate::backbone) fn blocks(&self) -> Result<Option<(Format, quantised::Bytes)>, String> {
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
pub(in crate::backbone) fn bad(name: &str, why: impl std::fmt::Display) -> Error {
    Error::format(format!("tensor `{name}`"), why)
}

#[cfg(test)]
mod tests {
    use super::*;

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
