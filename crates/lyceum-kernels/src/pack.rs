//! A frozen matrix in the order a product reads it.
//!
//! `y = x M` with `M` `[k, n]` is computed a *panel* of columns at a time: two registers wide.
//! The panel's values lie row after row, so a product streams through memory once. In bf16 a
//! 32-bit word holds two consecutive rows' values of a column: the first in the low half, the
//! second in the high half, as AVX512-BF16 multiplies them; elsewhere a shift and a mask widen them.

use half::bf16;
use rayon::prelude::*;

use crate::view::View;

/// The values of all panels.
#[derive(Debug, Clone)]
pub(crate) enum Values {
    F32(Vec<f32>),
    /// Two bf16 per word.
    Bf16(Vec<u32>),
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
        Panels::of(
            (matrix.rows, matrix.columns),
            lanes,
            halves,
            |row, column| matrix.at(row, column),
        )
    }

    /// The transpose, laid out alike.
    pub(crate) fn turned(&self) -> Self {
        let halves = matches!(self.values, Values::Bf16(_));
        let at = |row: usize, column: usize| self.at(column, row);
        Panels::of((self.n, self.k), self.lanes, halves, at)
    }

    /// Packs the `[k, n]` matrix whose element `(row, column)` is `at(row, column)`.
    fn of(
        (k, n): (usize, usize),
        lanes: usize,
        halves: bool,
        at: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let width = 2 * lanes;
        let count = n.div_ceil(width);
        let columns = |panel: usize| panel * width..n.min((panel + 1) * width);
        let values = if halves {
            let pairs = k.div_ceil(2);
            let mut words = vec![0u32; count * pairs * width];
            let panels = words.par_chunks_mut((pairs * width).max(1)).enumerate();
            panels.for_each(|(p, words)| {
                for (pair, words) in words.chunks_mut(width).enumerate() {
                    for (word, column) in words.iter_mut().zip(columns(p)) {
                        let bits = |row| u32::from(bf16::from_f32(at(row, column)).to_bits());
                        *word = bits(2 * pair);
                        if 2 * pair + 1 < k {
                            *word |= bits(2 * pair + 1) << 16;
                        }
                    }
                }
            });
            Values::Bf16(words)
        } else {
            let mut values = vec![0f32; count * k * width];
            let panels = values.par_chunks_mut((k * width).max(1)).enumerate();
            panels.for_each(|(p, values)| {
                for (row, values) in values.chunks_mut(width).enumerate() {
                    for (value, column) in values.iter_mut().zip(columns(p)) {
                        *value = at(row, column);
                    }
                }
            });
            Values::F32(values)
        };
        Panels {
            values,
            k,
            n,
            lanes,
        }
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
