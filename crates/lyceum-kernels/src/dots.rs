//! Rows of quantised blocks times a few rows of numbers, each block taken apart beside the
//! processor.
//!
//! A group's weights are `d q - m`, so its part of a sum is `d (q x) - m (sum of x)`: the small
//! whole numbers are multiplied as they are, and scales count once per group.

use crate::blocks::{self, Block, LONGEST, Parts};
use crate::format::Format;
use crate::math;

/// Up to this many rows, blocks are multiplied as they are taken apart.
pub(crate) const FEW: usize = 16;
/// Numbers whose sum [`sums`] gives.
const GROUP: usize = 32;
/// Running sums per result.
const LANES: usize = 8;
/// Rows of x multiplied together.
const TILE: usize = 4;

/// The sums of every 32 numbers of `x`.
pub(crate) fn sums(x: &[f32]) -> Vec<f32> {
    x.chunks(GROUP).map(|some| some.iter().sum()).collect()
}

/// A few rows of numbers `[t, k]`, k being whole blocks and t at most [`FEW`], and their [`sums`].
#[derive(Clone, Copy)]
pub(crate) struct Few<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) sums: &'a [f32],
    pub(crate) t: usize,
}

/// Sums `[rows, t]` of the rows in `bytes` times x.
pub(crate) fn dots(format: Format, bytes: &[u8], x: Few<'_>, y: &mut [f32]) {
    assert!((1..=FEW).contains(&x.t), "few rows");
    any(format, bytes, x, y);
}

math::dispatch! {
    fn any(format: Format, bytes: &[u8], x: Few<'_>, y: &mut [f32]) {
        match format {
            Format::Q4_0 => rows::<blocks::Q4_0>(bytes, x, y),
            Format::Q4_1 => rows::<blocks::Q4_1>(bytes, x, y),
            Format::Q5_0 => rows::<blocks::Q5_0>(bytes, x, y),
            Format::Q5_1 => rows::<blocks::Q5_1>(bytes, x, y),
            Format::Q8_0 => rows::<blocks::Q8_0>(bytes, x, y),
            Format::Q4_K => rows::<blocks::Q4K>(bytes, x, y),
            Format::Q5_K => rows::<blocks::Q5K>(bytes, x, y),
            Format::Q6_K => rows::<blocks::Q6K>(bytes, x, y),
        }
    }
}

/// Running sums of one result: of the products, and of the offsets.
#[derive(Clone, Copy)]
struct Running {
    products: [f32; LANES],
    offsets: [f32; LANES],
}

#[inline(always)]
fn rows<B: Block>(bytes: &[u8], x: Few<'_>, y: &mut [f32]) {
    let k = x.x.len() / x.t;
    let row = k / B::LEN * B::BYTES;
    for (row, y) in bytes.chunks_exact(row).zip(y.chunks_exact_mut(x.t)) {
        let mut running = [Running {
            products: [0.0; LANES],
            offsets: [0.0; LANES],
        }; FEW];
        let running = &mut running[..x.t];
        let mut parts = Parts::new();
        let spans = row.chunks_exact(LONGEST / B::LEN * B::BYTES);
        let rest = spans.remainder();
        let mut from = 0;
        for span in spans {
            several::<B, LONGEST>(span, &mut parts, x, from, running);
            from += LONGEST;
        }
        if B::LEN < LONGEST {
            for block in rest.chunks_exact(B::BYTES) {
                several::<B, GROUP>(block, &mut parts, x, from, running);
                from += GROUP;
            }
        }
        for (y, running) in y.iter_mut().zip(running) {
            let products: f32 = running.products.iter().sum();
            let offsets: f32 = running.offsets.iter().sum();
            *y = products - offsets;
        }
    }
}

/// `N` weights from column `from` on, times all rows of x.
#[inline(always)]
fn several<B: Block, const N: usize>(
    bytes: &[u8],
    parts: &mut Parts,
    x: Few<'_>,
    from: usize,
    running: &mut [Running],
) {
    let Parts { q, d, m } = parts;
    let groups = N / B::GROUP;
    B::open(bytes, &mut q[..N], &mut d[..groups], &mut m[..groups]);
    let mut first = 0;
    while first < x.t {
        let (parts, running) = (&*parts, &mut running[first..]);
        first += match x.t - first {
            TILE.. => tile::<B, N, TILE>(parts, x, first, from, running),
            _ => tile::<B, N, 1>(parts, x, first, from, running),
        };
    }
}

/// `N` weights times `R` rows of x from row `first` on; returns `R`.
#[inline(always)]
fn tile<B: Block, const N: usize, const R: usize>(
    parts: &Parts,
    x: Few<'_>,
    first: usize,
    from: usize,
    running: &mut [Running],
) -> usize {
    let k = x.x.len() / x.t;
    let rows: [&[[f32; LANES]]; R] = std::array::from_fn(|r| {
        let row = &x.x[(first + r) * k + from..][..N];
        row.as_chunks::<LANES>().0
    });
    let q = parts.q[..N].as_chunks::<LANES>().0;
    let mut totals: [[f32; LANES]; R] = std::array::from_fn(|r| running[r].products);
    let steps = B::GROUP / LANES;
    for group in 0..N / B::GROUP {
        let mut sums = [[0f32; LANES]; R];
        for step in group * steps..(group + 1) * steps {
            let q: [f32; LANES] = std::array::from_fn(|i| f32::from(q[step][i]));
            for r in 0..R {
                for i in 0..LANES {
                    sums[r][i] = q[i].mul_add(rows[r][step][i], sums[r][i]);
                }
            }
        }
        let d = parts.d[group];
        for r in 0..R {
            for i in 0..LANES {
                totals[r][i] = d.mul_add(sums[r][i], totals[r][i]);
            }
        }
    }
    for r in 0..R {
        running[r].products = totals[r];
        if B::OFFSETS {
            let sums = &x.sums[((first + r) * k + from) / GROUP..][..N / GROUP];
            for ((offset, m), sum) in running[r].offsets.iter_mut().zip(&parts.m).zip(sums) {
                *offset = m.mul_add(*sum, *offset);
            }
        }
    }
    R
}
