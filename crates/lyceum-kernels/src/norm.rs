//! Layer norm and RMS norm over rows of `d` values.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::math;
use crate::memory::written;

/// Rows per block of work; sums over rows are taken block by block, then in order.
const BLOCK: usize = 64;

/// Writes `values`, and what they are added to, if anything.
#[inline(always)]
fn put(values: &[f32], onto: Option<&[f32]>, to: &mut [MaybeUninit<f32>]) {
    match onto {
        None => to.iter_mut().zip(values).for_each(|(to, x)| {
            to.write(*x);
        }),
        Some(onto) => {
            for ((to, x), onto) in to.iter_mut().zip(values).zip(onto) {
                to.write(x + onto);
            }
        }
    }
}

math::dispatch! {
    fn block_forward(
        x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [MaybeUninit<f32>],
    ) {
        let d = weight.len();
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let (mean, inverse) = math::moments(x, eps);
            for i in 0..d {
                y[i].write(((x[i] - mean) * inverse).mul_add(weight[i], bias[i]));
            }
        }
    }
}

math::dispatch! {
    fn block_backward(
        rows: Block<'_>, weight: &[f32], eps: f32, params: Option<AffineGradients<'_>>,
    ) {
        let (d, Block { x, dy, onto, dx }) = (weight.len(), rows);
        let (mut params, mut g) = (params, vec![0f32; d]);
        for (row, (x, dy)) in x.chunks(d).zip(dy.chunks(d)).enumerate() {
            let own = row * d..(row + 1) * d;
            let (mean, inverse) = math::moments(x, eps);
            // With g = dy w and x^ = (x - mean) / sd: dx = (g - mean(g) - x^ mean(g x^)) / sd.
            g.iter_mut().zip(dy).zip(weight).for_each(|((g, dy), w)| *g = dy * w);
            let sum = math::sum(&g, |g| g) / d as f32;
            let along = math::sum_pairs(&g, x, |g, x| g * (x - mean)) * inverse / d as f32;
            for i in 0..d {
                let unit = (x[i] - mean) * inverse;
                g[i] = (g[i] - sum - unit * along) * inverse;
            }
            put(&g, onto.map(|onto| &onto[own.clone()]), &mut dx[own]);
            if let Some(AffineGradients { dweight, dbias }) = &mut params {
                for i in 0..d {
                    dweight[i] += dy[i] * (x[i] - mean) * inverse;
                    dbias[i] += dy[i];
                }
            }
        }
    }
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` over rows of `weight.len()` values.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let d = weight.len();
    let block = |x: &[f32], y: &mut [MaybeUninit<f32>]| block_forward(x, weight, bias, eps, y);
    // SAFETY: a block writes every row.
    unsafe { written(x.len(), |y| each_block(x, d, y, block)) }
}

/// `block` of some rows of `x` and of the result at a time.
fn each_block(
    x: &[f32],
    d: usize,
    y: &mut [MaybeUninit<f32>],
    block: impl Fn(&[f32], &mut [MaybeUninit<f32>]) + Sync,
) {
    if x.len() <= BLOCK * d {
        return block(x, y);
    }
    let blocks = x.par_chunks(BLOCK * d).zip(y.par_chunks_mut(BLOCK * d));
    blocks.for_each(|(x, y)| block(x, y));
}

/// The arguments of a backward pass of [`layer_norm`] or [`rms_norm`].
#[derive(Debug, Clone, Copy)]
pub struct NormBackward<'a> {
    /// The inputs of the forward pass, rows of `weight.len()` values.
    pub x: &'a [f32],
    /// The weight, `[d]`.
    pub weight: &'a [f32],
    /// As in the forward pass.
    pub eps: f32,
    /// The gradients of the result.
    pub dy: &'a [f32],
    /// Added to the gradients of the inputs, if any.
    pub onto: Option<&'a [f32]>,
}

/// The gradients of a norm's weight and bias, `[d]` each.
#[derive(Debug)]
pub struct AffineGradients<'a> {
    /// Of the weight.
    pub dweight: &'a mut [f32],
    /// Of the bias.
    pub dbias: &'a mut [f32],
}

/// Gradient of the inputs of [`layer_norm`]; `params` receive, if wanted, those of weight and bias.
pub fn layer_norm_backward(
    arguments: NormBackward<'_>,
    params: Option<AffineGradients<'_>>,
) -> Vec<f32> {
    let NormBackward { weight, eps, .. } = arguments;
    let d = weight.len();
    let wanted = params.is_some();
    let block = |own: Block<'_>| {
        let (mut dweight, mut dbias) = (vec![0.0; d], vec![0.0; d]);
        let sums = wanted.then_some(AffineGradients {
            dweight: &mut dweight,
            dbias: &mut dbias,
        });
        block_backward(own, weight, eps, sums);
        [dweight, dbias]
    };
    let (dx, sums) = blocks_backward(arguments, block);
    if let Some(AffineGradients { dweight, dbias }) = params {
        dweight.fill(0.0);
        dbias.fill(0.0);
        for [w, b] in &sums {
            dweight.iter_mut().zip(w).for_each(|(sum, x)| *sum += x);
            dbias.iter_mut().zip(b).for_each(|(sum, x)| *sum += x);
        }
    }
    dx
}

/// Some rows in a backward pass.
struct Block<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    onto: Option<&'a [f32]>,
    dx: &'a mut [MaybeUninit<f32>],
}

/// The gradient `dx` that `block`, which must write all of its part, makes some rows at a time, and
/// what it returns, in order.
fn blocks_backward<T: Send>(
    arguments: NormBackward<'_>,
    block: impl Fn(Block<'_>) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    let NormBackward { x, dy, onto, .. } = arguments;
    let d = arguments.weight.len();
    assert!(
        dy.len() == x.len() && onto.is_none_or(|onto| onto.len() == x.len()),
        "as many values"
    );
    let mut sums = Vec::new();
    // SAFETY: a block writes every row.
    let dx = unsafe {
        written(x.len(), |dx| {
            let blocks = x
                .par_chunks(BLOCK * d)
                .zip(dy.par_chunks(BLOCK * d))
                .zip(dx.par_chunks_mut(BLOCK * d))
                .enumerate();
            let own = |(i, ((x, dy), dx)): (usize, ((_, _), _))| {
                let onto = onto.map(|onto| &onto[i * BLOCK * d..]);
                block(Block { x, dy, onto, dx })
            };
            sums = blocks.map(own).collect();
        })
    };
    (dx, sums)
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let square = math::sum(x, |x| x * x) / x.len() as f32;
    1.0 / (square + eps).sqrt()
}

math::dispatch! {
    fn rms_block(x: &[f32], weight: &[f32], eps: f32, y: &mut [MaybeUninit<f32>]) {
        let d = weight.len();
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let inverse = inverse_rms(x, eps);
            for i in 0..d {
                y[i].write(x[i] * inverse * weight[i]);
            }
        }
    }
}

math::dispatch! {
    fn rms_block_backward(
        rows: Block<'_>, weight: &[f32], eps: f32, dweight: Option<&mut [f32]>,
    ) {
        let (d, Block { x, dy, onto, dx }) = (weight.len(), rows);
        let (mut dweight, mut g) = (dweight, vec![0f32; d]);
        for (row, (x, dy)) in x.chunks(d).zip(dy.chunks(d)).enumerate() {
            let own = row * d..(row + 1) * d;
            let inverse = inverse_rms(x, eps);
            // With g = dy w and x^ = x / rms: dx = (g - x^ mean(g x^)) / rms.
            g.iter_mut().zip(dy).zip(weight).for_each(|((g, dy), w)| *g = dy * w);
            let along = math::dot(&g, x) * inverse / d as f32;
            for i in 0..d {
                g[i] = (g[i] - x[i] * inverse * along) * inverse;
            }
            put(&g, onto.map(|onto| &onto[own.clone()]), &mut dx[own]);
            if let Some(dweight) = &mut dweight {
                for i in 0..d {
                    dweight[i] += dy[i] * x[i] * inverse;
                }
            }
        }
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over rows of `weight.len()` values (Zhang and Sennrich,
/// arXiv 1910.07467).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let block = |x: &[f32], y: &mut [MaybeUninit<f32>]| rms_block(x, weight, eps, y);
    // SAFETY: a block writes every row.
    unsafe { written(x.len(), |y| each_block(x, weight.len(), y, block)) }
}

/// Gradient of the inputs of [`rms_norm`]; `dweight` `[d]` receives, if wanted, that of the weight.
pub fn rms_norm_backward(arguments: NormBackward<'_>, dweight: Option<&mut [f32]>) -> Vec<f32> {
    let NormBackward { weight, eps, .. } = arguments;
    let d = weight.len();
    let wanted = dweight.is_some();
    let block = |own: Block<'_>| {
        let mut dweight = vec![0.0; d];
        let sum = wanted.then_some(dweight.as_mut_slice());
        rms_block_backward(own, weight, eps, sum);
        dweight
    };
    let (dx, sums) = blocks_backward(arguments, block);
    if let Some(dweight) = dweight {
        dweight.fill(0.0);
        for sum in &sums {
            dweight.iter_mut().zip(sum).for_each(|(w, x)| *w += x);
        }
    }
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::values;

    fn naive(x: &[f64], w: &[f32], b: &[f32], d: usize) -> Vec<f64> {
        let row = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / d as f64;
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let unit = |i: usize| (x[i] - mean) / (var + 1e-5).sqrt();
            (0..d)
                .map(|i| unit(i) * f64::from(w[i]) + f64::from(b[i]))
                .collect()
        };
        x.chunks(d).flat_map(row).collect()
    }

    fn arguments<'a>(x: &'a [f32], weight: &'a [f32], eps: f32, dy: &'a [f32]) -> NormBackward<'a> {
        let onto = None;
        NormBackward {
            x,
            weight,
            eps,
            dy,
            onto,
        }
    }

    #[test]
    fn forward_and_backward_equal_the_formula() {
        for (t, d) in [(1, 7), (3, 16), (70, 5)] {
            let (x, w, b) = (values(t * d, 1), values(d, 2), values(d, 3));
            let dy = values(t * d, 4);
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let y = layer_norm(&x, &w, &b, 1e-5);
            for (a, b) in y.iter().zip(naive(&wide, &w, &b, d)) {
                assert!((f64::from(*a) - b).abs() < 1e-4);
            }
            let (mut dw, mut db) = (vec![9.0; d], vec![9.0; d]);
            let params = AffineGradients {
                dweight: &mut dw,
                dbias: &mut db,
            };
            let mut arguments = arguments(&x, &w, 1e-5, &dy);
            let dx = layer_norm_backward(arguments, Some(params));
            let onto = values(t * d, 5);
            arguments.onto = Some(&onto);
            let sum = layer_norm_backward(arguments, None);
            assert!((0..t * d).all(|i| sum[i] == dx[i] + onto[i]));
            let objective = |x: &[f64], w: &[f32], b: &[f32]| -> f64 {
                naive(x, w, b, d)
                    .iter()
                    .zip(&dy)
                    .map(|(y, g)| y * f64::from(*g))
                    .sum()
            };
            for i in 0..t * d {
                let nudge = |by: f64| {
                    let mut x = wide.clone();
                    x[i] += by;
                    objective(&x, &w, &b)
                };
                let slope = (nudge(1e-4) - nudge(-1e-4)) / 2e-4;
                assert!((f64::from(dx[i]) - slope).abs() < 2e-3 * (1.0 + slope.abs()));
            }
            for i in 0..d {
                let mut more = b.clone();
                more[i] += 1.0;
                let slope = objective(&wide, &w, &more) - objective(&wide, &w, &b);
                assert!((f64::from(db[i]) - slope).abs() < 1e-3 * (1.0 + slope.abs()));
                let mut more = w.clone();
                more[i] += 1.0;
                let slope = objective(&wide, &more, &b) - objective(&wide, &w, &b);
                assert!((f64::from(dw[i]) - slope).abs() < 1e-3 * (1.0 + slope.abs()));
            }
        }
    }

    #[test]
    fn rms_norm_and_its_gradient_equal_the_formula() {
        for (t, d) in [(1, 7), (3, 16), (70, 5)] {
            let (x, w, dy) = (values(t * d, 1), values(d, 2), values(t * d, 4));
            let plain = |x: &[f64]| -> Vec<f64> {
                let row = |x: &[f64]| -> Vec<f64> {
                    let square = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
                    let scaled = |i: usize| x[i] / (square + 1e-6).sqrt() * f64::from(w[i]);
                    (0..d).map(scaled).collect()
                };
                x.chunks(d).flat_map(row).collect()
            };
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let y = rms_norm(&x, &w, 1e-6);
            let mut dw = vec![9.0; d];
            let mut arguments = arguments(&x, &w, 1e-6, &dy);
            let dx = rms_norm_backward(arguments, Some(&mut dw));
            let onto = values(t * d, 5);
            arguments.onto = Some(&onto);
            let sum = rms_norm_backward(arguments, None);
            assert!((0..t * d).all(|i| sum[i] == dx[i] + onto[i]));
            for (j, dw) in dw.iter().enumerate() {
                let unit = |row: &[f64]| {
                    let square = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
                    row[j] / (square + 1e-6).sqrt()
                };
                let rows = wide.chunks(d).zip(dy.chunks(d));
                let want: f64 = rows.map(|(x, dy)| unit(x) * f64::from(dy[j])).sum();
                assert!((f64::from(*dw) - want).abs() < 1e-4 * (1.0 + want.abs()));
            }
            for (a, b) in y.iter().zip(plain(&wide)) {
                assert!((f64::from(*a) - b).abs() < 1e-5);
            }
            let objective = |x: &[f64]| -> f64 {
                let terms = plain(x).into_iter().zip(&dy);
                terms.map(|(y, g)| y * f64::from(*g)).sum()
            };
            for i in 0..t * d {
                let nudge = |by: f64| {
                    let mut x = wide.clone();
                    x[i] += by;
                    objective(&x)
                };
                let slope = (nudge(1e-5) - nudge(-1e-5)) / 2e-5;
                assert!((f64::from(dx[i]) - slope).abs() < 1e-4 * (1.0 + slope.abs()));
            }
        }
    }
}
