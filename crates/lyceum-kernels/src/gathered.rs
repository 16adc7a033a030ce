//! Rows of a matrix that may lie column by column, brought together a cache line at a time.

use std::ops::Range;

use crate::cpu::Level;
use crate::vector::{Block, SIDE};
use crate::view::View;

/// Rows that are brought together at once: a cache line of each column.
const GROUP: usize = 16;

/// The rows brought together last. One of these serves one matrix and one range of its columns.
#[derive(Default)]
pub(crate) struct Gathered {
    values: Vec<f32>,
    rows: Range<usize>,
}

impl Gathered {
    /// Values `from..to` of a row of `x`, where they lie if they lie side by side.
    #[inline(always)]
    pub(crate) fn row<'a>(
        &'a mut self,
        x: View<'a>,
        row: usize,
        from: usize,
        to: usize,
    ) -> &'a [f32] {
        self.pair(x, row, from, to).0
    }

    /// Values `from..to` of a row and of the next one, if there is one. Rows must be requested in
    /// order, all of them or every other.
    #[inline(always)]
    pub(crate) fn pair<'a>(
        &'a mut self,
        x: View<'a>,
        row: usize,
        from: usize,
        to: usize,
    ) -> (&'a [f32], Option<&'a [f32]>) {
        let next = (row + 1 < x.rows).then_some(row + 1);
        if let Some(values) = x.run(row, from, to) {
            return (values, next.and_then(|next| x.run(next, from, to)));
        }
        let width = to - from;
        if !self.rows.contains(&row) {
            self.rows = row..(row + GROUP).min(x.rows);
            self.values.resize(GROUP * width, 0.0);
            gather(x, row, from..to, &mut self.values);
        }
        let first = (row - self.rows.start) * width;
        let (own, rest) = self.values[first..].split_at(width);
        (own, next.and_then(|_| rest.get(..width)))
    }
}

/// Copies `columns` of [`GROUP`] rows from `row` on, as far as there are any, to rows of `into`.
fn gather(x: View<'_>, row: usize, columns: Range<usize>, into: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(x: View<'_>, row: usize, columns: Range<usize>, into: &mut [f32]) {
            blocks(x, row, columns, into, |block| crate::vector::turn(block));
        }
        if Level::Avx2.exists() {
            // SAFETY: the level exists, as just checked.
            return unsafe { wide(x, row, columns, into) };
        }
    }
    let turn = |block: &Block| std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]));
    blocks(x, row, columns, into, turn);
}

/// [`gather`], rows and columns transposed by `turn` where there is a block of them.
#[inline(always)]
fn blocks(
    x: View<'_>,
    row: usize,
    columns: Range<usize>,
    into: &mut [f32],
    turn: impl Fn(&Block) -> Block,
) {
    let (from, width) = (columns.start, columns.len());
    let (side, pitch) = x.steps;
    let end = x.rows.min(row + GROUP);
    for column in (0..width).step_by(SIDE) {
        for first in (row..end).step_by(SIDE) {
            let start = &x.values[first * side + (from + column) * pitch..];
            let into = &mut into[(first - row) * width + column..];
            let (rows, columns) = (SIDE.min(end - first), SIDE.min(width - column));
            if (side, rows, columns) == (1, SIDE, SIDE) {
                let mut block = Block::default();
                for (c, column) in block.iter_mut().enumerate() {
                    *column = start[c * pitch..].as_chunks().0[0];
                }
                for (r, line) in turn(&block).iter().enumerate() {
                    into[r * width..].as_chunks_mut().0[0] = *line;
                }
                continue;
            }
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                into[r * width + c] = start[r * side + c * pitch];
            }
        }
    }
}
