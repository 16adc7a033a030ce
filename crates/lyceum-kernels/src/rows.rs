//! A few rows at a time: dot products with them, and sums of them.
//!
//! The order in which a result is summed depends on the rows alone, not on what is computed beside
//! nor on the level: what has fused multiply-adds gives the same bits.

use std::ops::Range;

use crate::cpu::Level;
use crate::vector::{Plain, SIDE, Vector};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Wide, Widest};

/// Work that is written once for every level.
pub(crate) trait Work {
    /// # Safety
    /// The processor must have the level of `V`.
    unsafe fn run<V: Vector>(self);
}

/// Does `work` in the registers of `level`.
pub(crate) fn run(level: Level, work: impl Work) {
    assert!(level.exists(), "the processor lacks {level:?}");
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(work: impl Work) {
            // SAFETY: this function is compiled for AVX2.
            unsafe { work.run::<Wide>() }
        }
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn widest(work: impl Work) {
            // SAFETY: this function is compiled for AVX-512.
            unsafe { work.run::<Widest>() }
        }
        match level {
            Level::Portable => {}
            // SAFETY: the level exists, as just checked.
            Level::Avx2 => return unsafe { wide(work) },
            // SAFETY: as above; the levels above AVX2 have AVX-512.
            _ => return unsafe { widest(work) },
        }
    }
    // SAFETY: the portable level runs everywhere.
    unsafe { work.run::<Plain>() }
}

/// Running sums of a dot product, and columns that are taken together, on every level.
const SPAN: usize = 16;

/// Rows of `width` values, `pitch` values apart.
#[derive(Clone, Copy)]
struct Rows<P> {
    first: P,
    pitch: usize,
}

/// `out[t][n] = x[t] . rows[n]` over `width` values.
///
/// # Safety
/// The processor must have the level of `V`; `x` has `T` rows, `rows` has `N`, at most [`SIDE`]
/// results in all.
#[inline(always)]
unsafe fn dots<V: Vector, const T: usize, const N: usize>(
    x: Rows<*const f32>,
    rows: Rows<*const f32>,
    width: usize,
) -> [[f32; N]; T] {
    let whole = width / SPAN * SPAN;
    let mut out = [[0.0; N]; T];
    // SAFETY: reads stop at the rows' width.
    unsafe {
        // One register per result, or two of half as many lanes.
        let mut sums = [[[V::splat(0.0); 2]; N]; T];
        let mut at = 0;
        while at < whole {
            for part in 0..SPAN / V::LANES {
                let from = at + part * V::LANES;
                let mut own = [V::splat(0.0); N];
                for (n, own) in own.iter_mut().enumerate() {
                    *own = V::load(rows.first.add(n * rows.pitch + from));
                }
                for (t, sums) in sums.iter_mut().enumerate() {
                    let x = V::load(x.first.add(t * x.pitch + from));
                    for (sum, own) in sums.iter_mut().zip(&own) {
                        sum[part] = sum[part].add_product(x, *own);
                    }
                }
            }
            at += SPAN;
        }
        // The lanes of each result as a row; their sums in the order of the lanes, side by side.
        let mut lanes = [[[0f32; SIDE]; SIDE]; SPAN / SIDE];
        for (result, sum) in sums.iter().flatten().enumerate() {
            for part in 0..SPAN / V::LANES {
                let mut own = [0f32; SPAN];
                sum[part].store(own.as_mut_ptr());
                for (i, half) in own[..V::LANES].as_chunks().0.iter().enumerate() {
                    lanes[part * V::LANES / SIDE + i][result] = *half;
                }
            }
        }
        let mut totals = [0f32; SIDE];
        for column in lanes.iter().flat_map(|block| V::transposed(block)) {
            totals.iter_mut().zip(column).for_each(|(sum, x)| *sum += x);
        }
        for (t, out) in out.iter_mut().enumerate() {
            for (n, out) in out.iter_mut().enumerate() {
                *out = totals[t * N + n];
                for at in whole..width {
                    *out += *x.first.add(t * x.pitch + at) * *rows.first.add(n * rows.pitch + at);
                }
            }
        }
    }
    out
}

/// `y[t] += sum_n weights[t][n] rows[n]` over `width` values, in the order of the rows.
///
/// # Safety
/// The processor must have the level of `V`; `rows` has `N` rows, `y` has `T` that nothing else
/// refers to.
#[inline(always)]
unsafe fn sums<V: Vector, const T: usize, const N: usize>(
    weights: [[f32; N]; T],
    rows: Rows<*const f32>,
    y: Rows<*mut f32>,
    width: usize,
) {
    let whole = width / SPAN * SPAN;
    // SAFETY: reads and writes stop at the rows' width.
    unsafe {
        let mut factors = [[V::splat(0.0); N]; T];
        for (factors, weights) in factors.iter_mut().zip(&weights) {
            for (factor, weight) in factors.iter_mut().zip(weights) {
                *factor = V::splat(*weight);
            }
        }
        let mut at = 0;
        while at < whole {
            let mut own = [V::splat(0.0); N];
            for (n, own) in own.iter_mut().enumerate() {
                *own = V::load(rows.first.add(n * rows.pitch + at));
            }
            for (t, factors) in factors.iter().enumerate() {
                let mut sum = V::splat(0.0);
                for (factor, own) in factors.iter().zip(&own) {
                    sum = sum.add_product(*factor, *own);
                }
                // Rounded once at the size of `y`, which may be much larger than the sum.
                let to = y.first.add(t * y.pitch + at);
                V::load(to).add_product(sum, V::splat(1.0)).store(to);
            }
            at += V::LANES;
        }
        for (t, weights) in weights.iter().enumerate() {
            for at in whole..width {
                let mut sum = 0.0;
                for (n, weight) in weights.iter().enumerate() {
                    sum += weight * *rows.first.add(n * rows.pitch + at);
                }
                *y.first.add(t * y.pitch + at) += sum;
            }
        }
    }
}

/// The dot products of all rows of `x` `[t, width]` with all of `rows` `[n, width]`: `out[t][n]`,
/// its rows `step` values apart.
///
/// # Safety
/// The processor must have the level of `V`.
#[inline(always)]
pub(crate) unsafe fn all_dots<V: Vector>(
    x: &[f32],
    rows: &[f32],
    width: usize,
    out: &mut [f32],
    step: usize,
) {
    let (t, n) = (x.len() / width, rows.len() / width);
    let mut i = 0;
    while i < t {
        // As many sums as the registers hold.
        let own = if i + 1 < t && V::LANES == SPAN { 2 } else { 1 };
        let x = Rows {
            first: x[i * width..].as_ptr(),
            pitch: width,
        };
        let mut j = 0;
        while j < n {
            let some = match n - j {
                4.. => 4,
                left => left.min(2),
            };
            let rows = Rows {
                first: rows[j * width..].as_ptr(),
                pitch: width,
            };
            let out = &mut out[i * step + j..];
            // SAFETY: `own` rows are left in `x` and `some` in `rows`.
            unsafe {
                match (own, some) {
                    (2, 4) => put(&dots::<V, 2, 4>(x, rows, width), out, step),
                    (2, 2) => put(&dots::<V, 2, 2>(x, rows, width), out, step),
                    (2, _) => put(&dots::<V, 2, 1>(x, rows, width), out, step),
                    (_, 4) => put(&dots::<V, 1, 4>(x, rows, width), out, step),
                    (_, 2) => put(&dots::<V, 1, 2>(x, rows, width), out, step),
                    _ => put(&dots::<V, 1, 1>(x, rows, width), out, step),
                }
            }
            j += some;
        }
        i += own;
    }
}

#[inline(always)]
fn put<const N: usize>(block: &[[f32; N]], out: &mut [f32], step: usize) {
    for (t, row) in block.iter().enumerate() {
        out[t * step..][..N].copy_from_slice(row);
    }
}

/// `y[t] += sum_n weight(t, n) rows[n]`, in the order of the rows: of `rows`, `pitch` values
/// apart, only `columns`, which are all that `y` has.
///
/// # Safety
/// The processor must have the level of `V`.
#[inline(always)]
pub(crate) unsafe fn all_sums<V: Vector>(
    weight: impl Fn(usize, usize) -> f32,
    rows: &[f32],
    pitch: usize,
    columns: Range<usize>,
    y: &mut [f32],
) {
    let width = columns.len();
    assert!(width > 0 && columns.end <= pitch, "columns of the rows");
    let (t, n) = (y.len() / width, rows.len() / pitch);
    let mut i = 0;
    while i < t {
        let own = if i + 4 <= t { 4 } else { 1 };
        let to = Rows {
            first: y[i * width..].as_mut_ptr(),
            pitch: width,
        };
        let mut j = 0;
        while j < n {
            let some = if j + 4 <= n { 4 } else { 1 };
            let first = rows[j * pitch + columns.start..].as_ptr();
            let from = Rows { first, pitch };
            // SAFETY: `own` rows are left in `y` and `some` in `rows`, from their first column on.
            unsafe {
                match (own, some) {
                    (4, 4) => sums::<V, 4, 4>(square(&weight, i, j), from, to, width),
                    (4, _) => sums::<V, 4, 1>(square(&weight, i, j), from, to, width),
                    (_, 4) => sums::<V, 1, 4>(square(&weight, i, j), from, to, width),
                    _ => sums::<V, 1, 1>(square(&weight, i, j), from, to, width),
                }
            }
            j += some;
        }
        i += own;
    }
}

#[inline(always)]
fn square<const T: usize, const N: usize>(
    weight: &impl Fn(usize, usize) -> f32,
    i: usize,
    j: usize,
) -> [[f32; N]; T] {
    std::array::from_fn(|t| std::array::from_fn(|n| weight(i + t, j + n)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::levels;
    use crate::values::values;

    struct Dots<'a>(&'a [f32], &'a [f32], usize, &'a mut [f32]);

    impl Work for Dots<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let Dots(x, rows, width, out) = self;
            let step = rows.len() / width;
            // SAFETY: the caller vouches for the level.
            unsafe { all_dots::<V>(x, rows, width, out, step) };
        }
    }

    #[test]
    fn dot_products_are_sixteen_running_sums_on_every_level() {
        let (t, n) = (3, 5);
        for width in [7, 16, 24, 40, 83] {
            let (x, rows) = (values(t * width, 1), values(n * width, 2));
            let one = |x: &[f32], row: &[f32]| {
                let whole = width / SPAN * SPAN;
                let mut sums = [0f32; SPAN];
                for at in 0..whole {
                    sums[at % SPAN] = x[at].mul_add(row[at], sums[at % SPAN]);
                }
                let rest = (whole..width).map(|at| x[at] * row[at]);
                rest.fold(sums.iter().sum(), |sum: f32, product| sum + product)
            };
            let all = x.chunks(width);
            let want: Vec<f32> = all
                .flat_map(|x| {
                    rows.chunks(width)
                        .map(|row| one(x, row))
                        .collect::<Vec<_>>()
                })
                .collect();
            for level in levels().filter(|level| *level != Level::Portable) {
                let mut out = vec![0.0; t * n];
                run(level, Dots(&x, &rows, width, &mut out));
                assert_eq!(out, want, "{level:?} {width}");
            }
        }
    }
}
