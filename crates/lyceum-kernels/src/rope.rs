//! Rotary positions: pairs of values rotated by an angle that grows with the position.
//!
//! Value `i` of a head is paired with value `i + half` (the layout of Hugging Face's
//! checkpoints). Source: Su et al., RoFormer, arXiv 2104.09864.

use rayon::prelude::*;

/// The turn of every pair at every token.
#[derive(Debug, Clone, PartialEq)]
pub struct Angles {
    /// Cosines, `[t, half]`; may carry a factor.
    pub cos: Vec<f32>,
    /// Sines, `[t, half]`; may carry the same factor.
    pub sin: Vec<f32>,
    /// Pairs per head.
    pub half: usize,
}

/// Which way pairs turn: the backward pass is the turn back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// By the angle.
    Forward,
    /// By its opposite.
    Back,
}

/// Rotates the first `2 * half` values of every head of `x` `[t, heads * dim]`; the result has the
/// same shape, and the other values of `x`.
pub fn rotate(
    x: &[f32],
    angles: &Angles,
    heads: usize,
    dim: usize,
    rotation: Rotation,
) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let (width, half) = (heads * dim, angles.half);
    assert!(2 * half <= dim, "a head of {dim} has no {half} pairs");
    let sign = if rotation == Rotation::Forward {
        1.0
    } else {
        -1.0
    };
    let rows = x.par_chunks(width).zip(y.par_chunks_mut(width));
    let turns = angles
        .cos
        .par_chunks(half.max(1))
        .zip(angles.sin.par_chunks(half.max(1)));
    rows.zip(turns)
        .with_min_len(16)
        .for_each(|((x, y), (cos, sin))| {
            for (x, y) in x.chunks(dim).zip(y.chunks_mut(dim)) {
                let (first, rest) = x.split_at(half);
                let (second, rest) = rest.split_at(half);
                let (y_first, y_rest) = y.split_at_mut(half);
                let (y_second, y_rest) = y_rest.split_at_mut(half);
                for i in 0..half {
                    let (c, s) = (cos[i], sign * sin[i]);
                    y_first[i] = first[i] * c - second[i] * s;
                    y_second[i] = second[i] * c + first[i] * s;
                }
                y_rest.copy_from_slice(rest);
            }
        });
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_equals_the_formula_and_its_gradient_is_the_transpose() {
        let (t, heads, dim) = (5, 2, 8);
        for half in [1, 3, 4] {
            let n = t * heads * dim;
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let angle: Vec<f32> = (0..t * half).map(|i| i as f32 * 0.3).collect();
            let angles = Angles {
                cos: angle.iter().map(|a| 1.3 * a.cos()).collect(),
                sin: angle.iter().map(|a| 1.3 * a.sin()).collect(),
                half,
            };
            let y = rotate(&x, &angles, heads, dim, Rotation::Forward);
            for (i, y) in y.iter().enumerate() {
                let (row, c) = (i / (heads * dim), i % dim);
                let pair = c % half.max(1);
                let at = f64::from(angle[row * half + pair]);
                let (own, sin) = (f64::from(x[i]), at.sin());
                let want = match c {
                    c if c < half => 1.3 * (own * at.cos() - f64::from(x[i + half]) * sin),
                    c if c < 2 * half => 1.3 * (own * at.cos() + f64::from(x[i - half]) * sin),
                    _ => own,
                };
                assert!((f64::from(*y) - want).abs() < 1e-5, "{i}");
            }
            // <R x, g> = <x, R^T g> for any g.
            let g: Vec<f32> = (0..n).map(|i| (i as f32 * 1.1).cos()).collect();
            let back = rotate(&g, &angles, heads, dim, Rotation::Back);
            let inner = |a: &[f32], b: &[f32]| -> f64 {
                let products = a.iter().zip(b);
                products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            assert!((inner(&y, &g) - inner(&x, &back)).abs() < 1e-4);
        }
    }
}
