//! A frozen matrix in the order a product reads it.
//!
//! `y = x M` with `M` `[k, n]` is computed a *panel* of columns at a time: two registers wide.
//! The panel's values lie row after row, so a product streams through memory once. In bf16 a
//! 32-bit word holds two consecutive rows' values of a column: the first in the low half, the
//! second in the high half, as AVX512-BF16 multiplies them; elsewhere a shift and a mask widen
//! them.

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::gathered::Gathered;
use crate::math::{self, round};
use crate::view::View;

/// From so many values on, panels are filled by several threads.
const MANY: usize = 1 << 17;

/// The values of all panels.
#[derive(Debug, Clone)]
pub(crate) enum Values {
    F32(Aligned<f32>),
    /// Two bf16 per word.
    Bf16(Aligned<u32>),
}

/// A `[k, n]` matrix in panels; the last panel, and an odd last row in bf16, are filled up with
/// zeros.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    pub(crate) values: Values,
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// Values per register; a panel has twice as many columns.
    pub(crate) lanes: usize,
}

impl Panels {
    /// Packs `matrix`, in f32 or rounded to bf16.
    pub(crate) fn new(matrix: View<'_>, lanes: usize, halves: bool) -> Self {
        assert!(matrix.inside(), "shapes must agree");
        let (k, n, width) = (matrix.rows, matrix.columns, 2 * lanes);
        let steps = if halves { k.div_ceil(2) } else { k };
        let size = steps * width;
        let total = n.div_ceil(width) * size;
        let values = match halves {
            true => Values::Bf16(each(total, size, |p, words| {
                fill_bf16(matrix, p * width, width, words)
            })),
            false => Values::F32(each(total, size, |p, values| {
                fill_f32(matrix, p * width, width, values)
            })),
        };
        Panels {
            values,
            k,
            n,
            lanes,
        }
    }

    /// Packs the transpose of a matrix `[n, k]` whose rows `read` gives, a panel's at a time.
    pub(crate) fn read<E: Send>(
        k: usize,
        n: usize,
        lanes: usize,
        halves: bool,
        read: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let width = 2 * lanes;
        let steps = if halves { k.div_ceil(2) } else { k };
        let size = steps * width;
        let some = |panel: usize| {
            let first = panel * width;
            let mut rows = vec![0.0; width.min(n - first) * k];
            read(first, &mut rows).map(|()| rows)
        };
        let total = n.div_ceil(width) * size;
        let values = match halves {
            true => Values::Bf16(tried(total, size, |panel, words| {
                let rows = some(panel)?;
                fill_bf16(transposed(&rows, k), 0, width, words);
                Ok(())
            })?),
            false => Values::F32(tried(total, size, |panel, values| {
                let rows = some(panel)?;
                fill_f32(transposed(&rows, k), 0, width, values);
                Ok(())
            })?),
        };
        Ok(Panels {
            values,
            k,
            n,
            lanes,
        })
    }

    /// The transpose, laid out alike.
    pub(crate) fn transposed(&self) -> Self {
        let mut rows = vec![0f32; self.k * self.n];
        let halves = matches!(self.values, Values::Bf16(_));
        let lines = rows.par_chunks_mut(self.n.max(1)).enumerate();
        lines.for_each(|(row, line)| {
            for (column, value) in line.iter_mut().enumerate() {
                *value = self.at(row, column);
            }
        });
        let matrix = View::whole(&rows, self.k, self.n);
        Panels::new(matrix.transposed(), self.lanes, halves)
    }

    /// The element at `(row, column)`.
    pub(crate) fn at(&self, row: usize, column: usize) -> f32 {
        let width = 2 * self.lanes;
        let (panel, inside) = (column / width, column % width);
        match &self.values {
            Values::F32(values) => values[(panel * self.k + row) * width + inside],
            Values::Bf16(words) => {
                let pairs = self.k.div_ceil(2);
                let word = words[(panel * pairs + row / 2) * width + inside];
                f32::from_bits(match row % 2 {
                    0 => word << 16,
                    _ => word & 0xffff_0000,
                })
            }
        }
    }
}

/// `total` values in parts of `size`, each filled by `fill(number, part)`.
fn each<T: Copy + Default + Send>(
    total: usize,
    size: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) -> Aligned<T> {
    let mut values = Aligned::zeros(total);
    match total {
        0 => {}
        1..MANY => values
            .chunks_mut(size)
            .enumerate()
            .for_each(|(p, part)| fill(p, part)),
        _ => values
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(p, part)| fill(p, part)),
    }
    values
}

/// Rows of `k` values as the columns of a matrix.
fn transposed(rows: &[f32], k: usize) -> View<'_> {
    View::whole(rows, rows.len() / k.max(1), k).transposed()
}

/// As [`each`], always by several threads, until a `fill` fails.
fn tried<T: Copy + Default + Send, E: Send>(
    total: usize,
    size: usize,
    fill: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync,
) -> Result<Aligned<T>, E> {
    let mut values = Aligned::zeros(total);
    let parts = values.par_chunks_mut(size.max(1)).enumerate();
    parts.try_for_each(|(p, part)| fill(p, part))?;
    Ok(values)
}

math::dispatch! {
    /// The panel of columns `from..from + width`, as far as there are any.
    fn fill_f32(matrix: View<'_>, from: usize, width: usize, values: &mut [f32]) {
        let to = matrix.columns.min(from + width);
        let mut gathered = Gathered::default();
        for (row, values) in values.chunks_mut(width).enumerate() {
            let line = gathered.row(matrix, row, from, to);
            values.iter_mut().zip(line).for_each(|(value, x)| *value = *x);
        }
    }
}

math::dispatch! {
    /// As [`fill_f32`], two rows to a word.
    fn fill_bf16(matrix: View<'_>, from: usize, width: usize, words: &mut [u32]) {
        let to = matrix.columns.min(from + width);
        let mut gathered = Gathered::default();
        let bits = |x: f32| round(x).to_bits();
        for (pair, words) in words.chunks_mut(width).enumerate() {
            match gathered.pair(matrix, 2 * pair, from, to) {
                (low, Some(high)) => {
                    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                        *word = bits(*low) >> 16 | bits(*high);
                    }
                }
                // There is no second row at an odd end.
                (low, None) => {
                    for (word, low) in words.iter_mut().zip(low) {
                        *word = bits(*low) >> 16;
                    }
                }
            }
        }
    }
}
