//! Sums of whole activations.

use rayon::prelude::*;

use crate::math;

/// Values per block of work.
const BLOCK: usize = 16_384;

math::dispatch! {
    fn block(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

/// `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "as many values");
    if x.len() <= BLOCK {
        return block(x, y);
    }
    let blocks = x.par_chunks(BLOCK).zip(y.par_chunks_mut(BLOCK));
    blocks.for_each(|(x, y)| block(x, y));
}

/// `y[i] += x` for every row of `y` `[t, d]`; x `[d]`.
pub fn add_to_each(x: &[f32], y: &mut [f32]) {
    let rows = y.par_chunks_mut(x.len().max(1)).with_min_len(16);
    rows.for_each(|y| block(x, y));
}

/// `y[i] *= by[i]` for every row of `y` `[t, d]`; by `[t]`.
pub fn scale_each(by: &[f32], y: &mut [f32]) {
    let d = y.len().checked_div(by.len()).unwrap_or(0).max(1);
    let rows = y.par_chunks_mut(d).zip(by).with_min_len(16);
    rows.for_each(|(y, by)| y.iter_mut().for_each(|y| *y *= by));
}

/// The sums of the columns of `x` `[t, d]`, in the order of the rows.
pub fn columns(x: &[f32], d: usize) -> Vec<f32> {
    let mut sums = vec![0.0; d];
    x.chunks(d.max(1)).for_each(|row| block(row, &mut sums));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_sums() {
        let x: Vec<f32> = (0..BLOCK + 5).map(|i| i as f32).collect();
        let mut y = vec![1.0; x.len()];
        add(&x, &mut y);
        assert!(y.iter().enumerate().all(|(i, y)| *y == i as f32 + 1.0));
        let mut y = vec![1.0; 4];
        add_to_each(&[1.0, 2.0], &mut y);
        assert_eq!(y, [2.0, 3.0, 2.0, 3.0]);
        scale_each(&[2.0, 0.5], &mut y);
        assert_eq!(y, [4.0, 6.0, 1.0, 1.5]);
        assert_eq!(columns(&[1.0, 2.0, 3.0, 4.0], 2), [4.0, 6.0]);
    }
}
