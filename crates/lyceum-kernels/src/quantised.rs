//! A quantised frozen matrix and its products.
//!
//! Rows lie as [`Format`] says, in memory of our own or in a mapped file: nothing is laid out
//! anew. A product of few rows (a step of decoding) turns each block into numbers once, beside
//! the processor, and is bound by reading the blocks. A product of many rows turns a part of the
//! matrix into a panel at a time and multiplies that as an unquantised one.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::blocks::{self, LONGEST};
use crate::cpu::Level;
use crate::dots::{self, FEW, Few, dots};
pub use crate::format::Format;
use crate::gemm::{Added, Rounding};
use crate::map::Map;
use crate::math;
use crate::pack::Panels;
use crate::product::product;
use crate::view::View;

/// Rows of the matrix per job of such a product.
const ROWS: usize = 32;
/// Columns of the result per job of a product of many rows.
const COLUMNS: usize = 64;
/// Columns of the result in flight.
const FLIGHT: usize = 4096;
/// Rows of the matrix turned into numbers at once on the way back.
const DEPTH: usize = 128;

/// Bytes of our own, or a part of a mapped file.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// Made here.
    Own(Vec<u8>),
    /// On disk.
    Mapped(Arc<Map>, Range<usize>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Mapped(map, range) => &map[range.clone()],
        }
    }
}

/// A frozen matrix `[n_out, n_in]` in blocks along its rows.
#[derive(Debug, Clone)]
pub(crate) struct Quantised {
    format: Format,
    bytes: Bytes,
    pub(crate) n_out: usize,
    pub(crate) n_in: usize,
    /// Of products of many rows.
    rounding: Rounding,
    level: Level,
}

impl Quantised {
    /// Takes `bytes` as they are; see [`Format::finite`].
    pub(crate) fn new(
        format: Format,
        bytes: Bytes,
        n_out: usize,
        n_in: usize,
        rounding: Rounding,
    ) -> Self {
        let wanted = format.row_bytes(n_in).checked_mul(n_out);
        assert_eq!(Some(bytes.len()), wanted, "as many bytes as the shape says");
        Quantised {
            format,
            bytes,
            n_out,
            n_in,
            rounding,
            level: Level::best(),
        }
    }

    /// Rounds `w` `[n_out, n_in]` to eight bits, 32 weights to a scale.
    pub(crate) fn int8(w: &[f32], n_out: usize, n_in: usize) -> Self {
        assert_eq!(w.len(), n_out * n_in, "as many values as the shape says");
        let read = |first: usize, rows: &mut [f32]| -> Result<(), Infallible> {
            rows.copy_from_slice(&w[first * n_in..][..rows.len()]);
            Ok(())
        };
        match Quantised::read_int8(n_out, n_in, read) {
            Ok(quantised) => quantised,
            Err(never) => match never {},
        }
    }

    /// Quantises a matrix to int8 as `read` delivers its rows, a group at a time.
    pub(crate) fn read_int8<E: Send>(
        n_out: usize,
        n_in: usize,
        read: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let width = Format::Q8_0.row_bytes(n_in);
        let mut bytes = vec![0; n_out * width];
        if width > 0 {
            let parts = bytes.par_chunks_mut(ROWS * width).enumerate();
            parts.try_for_each(|(part, bytes)| {
                let mut rows = vec![0.0; bytes.len() / width * n_in];
                read(part * ROWS, &mut rows)?;
                for (bytes, w) in bytes.chunks_mut(width).zip(rows.chunks(n_in)) {
                    let blocks = bytes.chunks_mut(Format::Q8_0.block_bytes());
                    for (block, w) in blocks.zip(w.chunks(Format::Q8_0.block())) {
                        blocks::Q8_0::encode(w, block);
                    }
                }
                Ok(())
            })?;
        }
        let (format, bytes) = (Format::Q8_0, Bytes::Own(bytes));
        Ok(Quantised::new(format, bytes, n_out, n_in, Rounding::F32))
    }

    /// Bytes of the matrix.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn row(&self, row: usize) -> &[u8] {
        let width = self.format.row_bytes(self.n_in);
        &self.bytes[row * width..][..width]
    }

    /// Copies the rows `ids` into `out` `[ids, n_in]`.
    pub(crate) fn rows(&self, ids: &[u32], out: &mut [f32]) {
        let rows = out.par_chunks_mut(self.n_in.max(1)).zip(ids);
        rows.for_each(|(out, &id)| {
            let blocks = self.row(id as usize).chunks(self.format.block_bytes());
            let mut values = [0.0; LONGEST];
            let values = &mut values[..self.format.block()];
            for (out, block) in out.chunks_mut(self.format.block()).zip(blocks) {
                decode(self.format, block, values);
                out.copy_from_slice(&values[..out.len()]);
            }
        });
    }

    /// `x W^T + added`: x `[t, n_in]`, result `[t, n_out]`.
    pub(crate) fn forward(&self, x: View<'_>, added: Added<'_>) -> Vec<f32> {
        let (t, n) = (x.rows, self.n_out);
        let mut y = vec![0.0; t * n];
        if y.is_empty() || self.n_in == 0 {
            // Nothing to sum.
        } else if t <= FEW {
            self.few(x.values, t, &mut y);
        } else {
            self.many(x, &mut y);
        }
        if let Some(bias) = added.bias {
            assert_eq!(bias.len(), n, "one bias per column");
            y.par_chunks_mut(n.max(1)).for_each(|y| add(bias, y));
        }
        if let Some(rows) = added.rows {
            assert_eq!(rows.len(), y.len(), "as many rows as results");
            let rows = rows.par_chunks(n.max(1));
            let lines = y.par_chunks_mut(n.max(1)).zip(rows);
            lines.for_each(|(y, rows)| add(rows, y));
        }
        y
    }

    /// Every block is decoded once and multiplied by all rows of `x`, whose values these are.
    fn few(&self, x: &[f32], t: usize, y: &mut [f32]) {
        let (k, n) = (self.n_in, self.n_out);
        let whole = k.next_multiple_of(self.format.block());
        let mut filled = Vec::new();
        let x = if whole == k {
            &x[..t * k]
        } else {
            filled.resize(t * whole, 0.0);
            let rows = filled.chunks_mut(whole).zip(x.chunks(k));
            rows.for_each(|(to, from)| to[..k].copy_from_slice(from));
            &filled
        };
        let sums = &dots::sums(x);
        let x = Few { x, sums, t };
        let width = ROWS * self.format.row_bytes(k);
        let bytes = self.bytes.par_chunks(width);
        if t == 1 {
            let jobs = bytes.zip(y.par_chunks_mut(ROWS));
            return jobs.for_each(|(bytes, y)| dots(self.format, bytes, x, y));
        }
        let mut transposed = vec![0.0; n * t];
        let jobs = bytes.zip(transposed.par_chunks_mut(ROWS * t));
        jobs.for_each(|(bytes, y)| dots(self.format, bytes, x, y));
        for (r, y) in y.chunks_mut(n).enumerate() {
            let column = transposed.iter().skip(r).step_by(t);
            y.iter_mut().zip(column).for_each(|(y, sum)| *y = *sum);
        }
    }

    /// A few columns of the result at a time, their rows of the matrix turned into panels.
    fn many(&self, x: View<'_>, y: &mut [f32]) {
        let n = self.n_out;
        for start in (0..n).step_by(FLIGHT) {
            let end = (start + FLIGHT).min(n);
            let columns: Vec<usize> = (start..end).step_by(COLUMNS).collect();
            let parts: Vec<Vec<f32>> = columns
                .par_iter()
                .map(|&from| {
                    let rows = self.decoded(from..(from + COLUMNS).min(end));
                    let matrix = View::whole(&rows, rows.len() / self.n_in, self.n_in);
                    product(
                        self.level,
                        x,
                        &self.panels(matrix.transposed()),
                        Added::default(),
                    )
                })
                .collect();
            y.par_chunks_mut(n).enumerate().for_each(|(r, y)| {
                for (y, part) in y[start..end].chunks_mut(COLUMNS).zip(&parts) {
                    y.copy_from_slice(&part[r * y.len()..][..y.len()]);
                }
            });
        }
    }

    /// The values of some rows, `[rows, n_in]`.
    fn decoded(&self, rows: Range<usize>) -> Vec<f32> {
        let ids: Vec<u32> = rows.map(|row| row as u32).collect();
        let mut values = vec![0.0; ids.len() * self.n_in];
        self.rows(&ids, &mut values);
        values
    }

    fn panels(&self, matrix: View<'_>) -> Panels {
        Panels::new(matrix, self.level.lanes(), self.rounding == Rounding::Bf16)
    }

    /// `dy W`: dy `[t, n_out]`, result `[t, n_in]`.
    pub(crate) fn backward(&self, dy: View<'_>) -> Vec<f32> {
        let mut dx = vec![0.0; dy.rows * self.n_in];
        for from in (0..self.n_out).step_by(DEPTH) {
            let rows = DEPTH.min(self.n_out - from);
            let values = self.decoded(from..from + rows);
            let panels = self.panels(View::whole(&values, rows, self.n_in));
            let part = View {
                values: dy.values.get(from..).unwrap_or_default(),
                columns: rows,
                ..dy
            };
            let added = Added {
                bias: None,
                rows: Some(&dx),
            };
            dx = product(self.level, part, &panels, added);
        }
        dx
    }
}

fn add(values: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(values).for_each(|(y, value)| *y += value);
}

math::dispatch! {
    /// The weights of one block.
    fn decode(format: Format, block: &[u8], values: &mut [f32]) {
        blocks::decode(format, block, values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Packed;
    use crate::values::values;
    use proptest::prelude::*;

    /// Any bytes, with scales below 1/512.
    fn made(format: Format, (n_out, n_in): (usize, usize), seed: u32) -> Packed {
        let count = n_out * format.row_bytes(n_in);
        let noise = values(count, seed).into_iter();
        let mut bytes: Vec<u8> = noise.map(|x| (x * 128.0) as i8 as u8).collect();
        for block in bytes.chunks_mut(format.block_bytes()) {
            let at: &[usize] = match format {
                Format::Q6_K => &[208],
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
                _ => &[0, 2],
            };
            at.iter().for_each(|at| block[at + 1] &= 0x93);
        }
        assert!(format.finite(&bytes));
        Packed::quantised(format, Bytes::Own(bytes), n_out, n_in, Rounding::F32)
    }

    fn close(got: &[f32], want: &[f32], k: usize) {
        let size = want.iter().fold(0f32, |most, x| most.max(x.abs()));
        let bound = 1e-6 * (k as f32).sqrt() * size.max(1e-3);
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= bound, "{got} {want}");
        }
    }

    /// Both products against those of the same values in f32.
    fn check(packed: &Packed, t: usize) {
        let (n_out, n_in) = (packed.n_out(), packed.n_in());
        let plain = Packed::f32(packed.weight(), n_out, n_in);
        let (x, dy) = (values(t * n_in, 1), values(t * n_out, 2));
        let (bias, rows) = (values(n_out, 3), values(t * n_out, 4));
        let added = Added {
            bias: Some(&bias),
            rows: Some(&rows),
        };
        let both = |by: &Packed| (by.forward(&x, added), by.backward(&dy));
        let (got, want) = (both(packed), both(&plain));
        close(&got.0, &want.0, n_in);
        close(&got.1, &want.1, n_out);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn products_are_those_of_the_same_values_in_f32(
            t in 0usize..40, n_out in 1usize..300, blocks in 1usize..4, seed in 0u32..1000,
        ) {
            for format in Format::ALL {
                check(&made(format, (n_out, blocks * format.block()), seed), t);
            }
        }

        #[test]
        fn int8_is_within_half_a_step_of_each_value(
            t in 0usize..40, n_out in 1usize..90, n_in in 1usize..120, seed in 0u32..1000,
            exponent in -18i32..20,
        ) {
            let w: Vec<f32> = values(n_out * n_in, seed).iter().map(|w| w * 2f32.powi(exponent)).collect();
            let packed = Packed::int8(&w, n_out, n_in);
            for (got, want) in packed.weight().chunks(n_in).zip(w.chunks(n_in)) {
                for (got, want) in got.chunks(32).zip(want.chunks(32)) {
                    let most = want.iter().fold(0f32, |most, w| most.max(w.abs()));
                    // Half a step of the scale, which is an f16 at or above a 127th of the largest.
                    let step = most / 127.0 * (1.0 + 1.0 / 1024.0) + 2f32.powi(-24);
                    for (got, want) in got.iter().zip(want) {
                        prop_assert!((got - want).abs() <= step * 0.5001, "{got} {want}");
                    }
                }
            }
            if exponent.abs() < 4 {
                check(&packed, t);
            }
        }
    }

    #[test]
    fn many_columns_and_threads_change_nothing() {
        let packed = made(Format::Q8_0, (5000, 64), 1);
        check(&packed, 20);
        let x = values(20 * 64, 5);
        let run = |threads, t: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let y = packed.forward(&x[..t * 64], Added::default());
                let dx = packed.backward(&y);
                (y, dx)
            })
        };
        for t in [1, 7, 20] {
            assert_eq!(run(1, t), run(3, t));
        }
        // Few rows: a row's result does not depend on its batch.
        assert_eq!(run(1, 7).0[..5000], run(1, 1).0);
    }

    #[test]
    fn scales_that_are_not_finite_are_seen() {
        for format in Format::ALL {
            let mut bytes = vec![0; 3 * format.block_bytes()];
            assert!(format.finite(&bytes));
            let at = if format == Format::Q6_K { 208 } else { 0 };
            bytes[2 * format.block_bytes() + at + 1] = 0x7c;
            assert!(!format.finite(&bytes));
        }
    }
}
