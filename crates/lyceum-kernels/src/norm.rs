//! Layer norm and RMS norm over rows of `d` values.

use rayon::prelude::*;

use crate::math;

/// Rows per block of work; sums over rows are taken block by block, then in order.
const BLOCK: usize = 64;

math::dispatch! {
    fn block_forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let (mean, inverse) = math::moments(x, eps);
            for i in 0..d {
                y[i] = ((x[i] - mean) * inverse).mul_add(weight[i], bias[i]);
            }
        }
    }
}

math::dispatch! {
    fn block_backward(
        x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32],
        params: Option<(&mut [f32], &mut [f32])>,
    ) {
        let d = weight.len();
        let mut params = params;
        for ((x, dy), dx) in x.chunks(d).zip(dy.chunks(d)).zip(dx.chunks_mut(d)) {
            let (mean, inverse) = math::moments(x, eps);
            // With g = dy w and x^ = (x - mean) / sd: dx = (g - mean(g) - x^ mean(g x^)) / sd.
            // dx holds g for now.
            dx.iter_mut().zip(dy).zip(weight).for_each(|((g, dy), w)| *g = dy * w);
            let sum = math::sum(dx, |g| g) / d as f32;
            let along = math::sum_pairs(dx, x, |g, x| g * (x - mean)) * inverse / d as f32;
            for i in 0..d {
                let unit = (x[i] - mean) * inverse;
                dx[i] = (dx[i] - sum - unit * along) * inverse;
            }
            if let Some((dweight, dbias)) = &mut params {
                for i in 0..d {
                    dweight[i] += dy[i] * (x[i] - mean) * inverse;
                    dbias[i] += dy[i];
                }
            }
        }
    }
}

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` over rows of `d` values.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, d: usize, y: &mut [f32]) {
    if x.len() <= BLOCK * d {
        return block_forward(x, weight, bias, eps, y);
    }
    x.par_chunks(BLOCK * d)
        .zip(y.par_chunks_mut(BLOCK * d))
        .for_each(|(x, y)| block_forward(x, weight, bias, eps, y));
}

/// Gradient of [`layer_norm`]: `dx`, and if wanted the sums `[d]` for weight and bias.
pub fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    d: usize,
    dy: &[f32],
    dx: &mut [f32],
    params: Option<(&mut [f32], &mut [f32])>,
) {
    let blocks = x
        .par_chunks(BLOCK * d)
        .zip(dy.par_chunks(BLOCK * d))
        .zip(dx.par_chunks_mut(BLOCK * d));
    let Some((dweight, dbias)) = params else {
        blocks.for_each(|((x, dy), dx)| block_backward(x, weight, eps, dy, dx, None));
        return;
    };
    let sums: Vec<(Vec<f32>, Vec<f32>)> = blocks
        .map(|((x, dy), dx)| {
            let (mut dweight, mut dbias) = (vec![0.0; d], vec![0.0; d]);
            block_backward(x, weight, eps, dy, dx, Some((&mut dweight, &mut dbias)));
            (dweight, dbias)
        })
        .collect();
    dweight.fill(0.0);
    dbias.fill(0.0);
    for (w, b) in &sums {
        dweight.iter_mut().zip(w).for_each(|(sum, x)| *sum += x);
        dbias.iter_mut().zip(b).for_each(|(sum, x)| *sum += x);
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let square = math::sum(x, |x| x * x) / x.len() as f32;
    1.0 / (square + eps).sqrt()
}

math::dispatch! {
    fn rms_block(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let inverse = inverse_rms(x, eps);
            for i in 0..d {
                y[i] = x[i] * inverse * weight[i];
            }
        }
    }
}

math::dispatch! {
    fn rms_block_backward(
        x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32],
        dweight: Option<&mut [f32]>,
    ) {
        let d = weight.len();
        let mut dweight = dweight;
        for ((x, dy), dx) in x.chunks(d).zip(dy.chunks(d)).zip(dx.chunks_mut(d)) {
            let inverse = inverse_rms(x, eps);
            // With g = dy w and x^ = x / rms: dx = (g - x^ mean(g x^)) / rms.
            // dx holds g for now.
            dx.iter_mut().zip(dy).zip(weight).for_each(|((g, dy), w)| *g = dy * w);
            let along = math::dot(dx, x) * inverse / d as f32;
            for i in 0..d {
                dx[i] = (dx[i] - x[i] * inverse * along) * inverse;
            }
            if let Some(dweight) = &mut dweight {
                for i in 0..d {
                    dweight[i] += dy[i] * x[i] * inverse;
                }
            }
        }
    }
}

/// `y = x / sqrt(mean(x^2) + eps) * weight` over rows of `weight.len()` values (Zhang and
/// Sennrich, arXiv 1910.07467).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let d = weight.len();
    if x.len() <= BLOCK * d {
        return rms_block(x, weight, eps, y);
    }
    x.par_chunks(BLOCK * d)
        .zip(y.par_chunks_mut(BLOCK * d))
        .for_each(|(x, y)| rms_block(x, weight, eps, y));
}

/// Gradient of [`rms_norm`]: `dx`, and if wanted the sum `[d]` for the weight.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let d = weight.len();
    let blocks = x
        .par_chunks(BLOCK * d)
        .zip(dy.par_chunks(BLOCK * d))
        .zip(dx.par_chunks_mut(BLOCK * d));
    let Some(dweight) = dweight else {
        blocks.for_each(|((x, dy), dx)| rms_block_backward(x, weight, eps, dy, dx, None));
        return;
    };
    let sums: Vec<Vec<f32>> = blocks
        .map(|((x, dy), dx)| {
            let mut dweight = vec![0.0; d];
            rms_block_backward(x, weight, eps, dy, dx, Some(&mut dweight));
            dweight
        })
        .collect();
    dweight.fill(0.0);
    for sum in &sums {
        dweight.iter_mut().zip(sum).for_each(|(w, x)| *w += x);
    }
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

    #[test]
    fn forward_and_backward_equal_the_formula() {
        for (t, d) in [(1, 7), (3, 16), (70, 5)] {
            let (x, w, b) = (values(t * d, 1), values(d, 2), values(d, 3));
            let dy = values(t * d, 4);
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let mut y = vec![0.0; t * d];
            layer_norm(&x, &w, &b, 1e-5, d, &mut y);
            for (a, b) in y.iter().zip(naive(&wide, &w, &b, d)) {
                assert!((f64::from(*a) - b).abs() < 1e-4);
            }
            let (mut dx, mut dw, mut db) = (vec![0.0; t * d], vec![9.0; d], vec![9.0; d]);
            layer_norm_backward(&x, &w, 1e-5, d, &dy, &mut dx, Some((&mut dw, &mut db)));
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
            let (mut y, mut dx) = (vec![0.0; t * d], vec![0.0; t * d]);
            rms_norm(&x, &w, 1e-6, &mut y);
            let mut dw = vec![9.0; d];
            rms_norm_backward(&x, &w, 1e-6, &dy, &mut dx, Some(&mut dw));
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
