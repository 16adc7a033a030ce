//! A frozen matrix in the order a product reads it.
//!
//! `y = x M` with `M` `[k, n]` is computed a *panel* of columns at a time: two registers wide.
//! The panel's values lie row after row, so a product streams through memory once. In bf16 a
//! 32-bit word holds a value of the first register (low half) and of the second (high half):
//! a shift and a mask widen them.

use half::bf16;
use rayon::prelude::*;

/// The values of all panels.
#[derive(Debug, Clone)]
pub(crate) enum Values {
    F32(Vec<f32>),
    /// Two bf16 per word.
    Bf16(Vec<u32>),
}

/// A `[k, n]` matrix in panels; the last one is filled up with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Panels {
    pub(crate) values: Values,
    pub(crate) k: usize,
    pub(crate) n: usize,
    /// Values per register; a panel has twice as many columns.
    pub(crate) lanes: usize,
}

impl Panels {
    /// Packs the matrix whose element `(row, column)` is `at(row, column)`.
    pub(crate) fn new(
        (k, n): (usize, usize),
        lanes: usize,
        halves: bool,
        at: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Self {
        let count = n.div_ceil(2 * lanes);
        let get = |row, column| if column < n { at(row, column) } else { 0.0 };
        let values = if halves {
            let mut words = vec![0u32; count * k * lanes];
            if k > 0 {
                let panels = words.par_chunks_mut(k * lanes).enumerate();
                panels.for_each(|(p, words)| {
                    for (i, word) in words.iter_mut().enumerate() {
                        let (row, column) = (i / lanes, 2 * lanes * p + i % lanes);
                        let bits = |column| u32::from(bf16::from_f32(get(row, column)).to_bits());
                        *word = bits(column) | bits(column + lanes) << 16;
                    }
                });
            }
            Values::Bf16(words)
        } else {
            let mut values = vec![0f32; count * k * 2 * lanes];
            if k > 0 {
                let panels = values.par_chunks_mut(k * 2 * lanes).enumerate();
                panels.for_each(|(p, values)| {
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = get(i / (2 * lanes), 2 * lanes * p + i % (2 * lanes));
                    }
                });
            }
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
                let word = words[(panel * self.k + row) * self.lanes + inside % self.lanes];
                let high = inside >= self.lanes;
                f32::from_bits(if high { word & 0xffff_0000 } else { word << 16 })
            }
        }
    }
}
