//! Rows of quantised blocks times a few rows of numbers, each block decoded once.

use crate::blocks::{self, Block, Format, LONGEST};
use crate::math;

/// Up to this many rows, blocks are multiplied as they are decoded.
pub(crate) const FEW: usize = 16;
/// Running sums per result.
const LANES: usize = 32;

/// Sums `[rows, t]` of the rows in `bytes` times `x` `[t, k]`, k being whole blocks and t at most
/// [`FEW`].
pub(crate) fn dots(format: Format, bytes: &[u8], x: &[f32], t: usize, y: &mut [f32]) {
    assert!((1..=FEW).contains(&t), "few rows");
    any(format, bytes, x, t, y);
}

math::dispatch! {
    fn any(format: Format, bytes: &[u8], x: &[f32], t: usize, y: &mut [f32]) {
        match format {
            Format::Q4_0 => sums::<blocks::Q4_0>(bytes, x, t, y),
            Format::Q4_1 => sums::<blocks::Q4_1>(bytes, x, t, y),
            Format::Q5_0 => sums::<blocks::Q5_0>(bytes, x, t, y),
            Format::Q5_1 => sums::<blocks::Q5_1>(bytes, x, t, y),
            Format::Q8_0 => sums::<blocks::Q8_0>(bytes, x, t, y),
            Format::Q4_K => sums::<blocks::Q4K>(bytes, x, t, y),
            Format::Q5_K => sums::<blocks::Q5K>(bytes, x, t, y),
            Format::Q6_K => sums::<blocks::Q6K>(bytes, x, t, y),
        }
    }
}

#[inline(always)]
fn sums<B: Block>(bytes: &[u8], x: &[f32], t: usize, y: &mut [f32]) {
    let k = x.len() / t;
    let rows = bytes.chunks_exact(k / B::LEN * B::BYTES);
    for (row, y) in rows.zip(y.chunks_exact_mut(t)) {
        let mut values = [0f32; LONGEST];
        let values = &mut values[..B::LEN];
        let blocks = row.chunks_exact(B::BYTES);
        if t == 1 {
            let mut lanes = [0f32; LANES];
            for (block, x) in blocks.zip(x.chunks_exact(B::LEN)) {
                B::decode(block, values);
                accumulate(values, x, &mut lanes);
            }
            y[0] = lanes.iter().sum();
        } else {
            let mut lanes = [[0f32; LANES]; FEW];
            for (i, block) in blocks.enumerate() {
                B::decode(block, values);
                for (lanes, x) in lanes.iter_mut().zip(x.chunks_exact(k)) {
                    accumulate(values, &x[i * B::LEN..][..B::LEN], lanes);
                }
            }
            for (y, lanes) in y.iter_mut().zip(&lanes) {
                *y = lanes.iter().sum();
            }
        }
    }
}

#[inline(always)]
fn accumulate(values: &[f32], x: &[f32], lanes: &mut [f32; LANES]) {
    let (values, x) = (values.as_chunks::<LANES>().0, x.as_chunks::<LANES>().0);
    for (values, x) in values.iter().zip(x) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(values[i], lanes[i]);
        }
    }
}
