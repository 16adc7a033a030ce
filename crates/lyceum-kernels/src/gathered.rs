//! Rows of a matrix that may lie column by column, brought together a cache line at a time.

use crate::math;
use crate::view::View;

/// Rows that are brought together at once: a cache line of each column.
const GROUP: usize = 16;

/// The rows brought together last. One of these serves one matrix and one range of its columns.
#[derive(Default)]
pub(crate) struct Gathered {
    values: Vec<f32>,
    rows: std::ops::Range<usize>,
}

impl Gathered {
    /// Values `from..to` of a row of `x`, where they lie if they lie side by side.
    #[inline(always)]
    pub(crate) fn row<'a>(
        &'a mut self,
        x: View<'a>,
        row: usize,
        (from, to): (usize, usize),
    ) -> &'a [f32] {
        if let Some(values) = x.run(row, from, to) {
            return values;
        }
        let width = to - from;
        if !self.rows.contains(&row) {
            self.rows = row..(row + GROUP).min(x.rows);
            self.values.resize(GROUP * width, 0.0);
            gather(x, row, from, width, &mut self.values);
        }
        &self.values[(row - self.rows.start) * width..][..width]
    }
}

math::dispatch! {
    /// Copies the columns `from..from + width` of [`GROUP`] rows from `row` on, as far as there are
    /// any, to rows of `into`.
    fn gather(x: View<'_>, row: usize, from: usize, width: usize, into: &mut [f32]) {
        let count = GROUP.min(x.rows - row);
        let lying = x.turned();
        for first in (0..width).step_by(GROUP) {
            let columns = GROUP.min(width - first);
            let mut block = [[0f32; GROUP]; GROUP];
            for (c, column) in block.iter_mut().enumerate().take(columns) {
                match lying.run(from + first + c, row, row + count) {
                    Some(values) => column[..count].copy_from_slice(values),
                    None => {
                        for (r, value) in column.iter_mut().enumerate().take(count) {
                            *value = x.at(row + r, from + first + c);
                        }
                    }
                }
            }
            for r in 0..count {
                let mut line = [0f32; GROUP];
                for (value, column) in line.iter_mut().zip(&block) {
                    *value = column[r];
                }
                into[r * width + first..][..columns].copy_from_slice(&line[..columns]);
            }
        }
    }
}
