//! Activations, elementwise.

use rayon::prelude::*;

use crate::math;

/// Values per block of work.
const BLOCK: usize = 4096;
/// sqrt(2 / pi).
const SLOPE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

math::dispatch! {
    fn gelu_block(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            let t = math::tanh(SLOPE * (CUBE * x * x).mul_add(*x, *x));
            *y = 0.5 * x * (1.0 + t);
        }
    }
}

math::dispatch! {
    fn gelu_block_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((x, dy), dx) in x.iter().zip(dy).zip(dx) {
            let t = math::tanh(SLOPE * (CUBE * x * x).mul_add(*x, *x));
            let inner = SLOPE * (3.0 * CUBE * x * x + 1.0);
            *dx = dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner);
        }
    }
}

/// `y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub fn gelu_new(x: &[f32], y: &mut [f32]) {
    x.par_chunks(BLOCK)
        .zip(y.par_chunks_mut(BLOCK))
        .for_each(|(x, y)| gelu_block(x, y));
}

/// Gradient of [`gelu_new`].
pub fn gelu_new_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    x.par_chunks(BLOCK)
        .zip(dy.par_chunks(BLOCK))
        .zip(dx.par_chunks_mut(BLOCK))
        .for_each(|((x, dy), dx)| gelu_block_backward(x, dy, dx));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_and_its_slope_equal_the_formula() {
        let x: Vec<f32> = (-500..500).map(|i| i as f32 * 0.02).collect();
        let f = |x: f64| {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        gelu_new(&x, &mut y);
        gelu_new_backward(&x, &vec![2.0; x.len()], &mut dx);
        for ((x, y), dx) in x.iter().zip(&y).zip(&dx) {
            let x = f64::from(*x);
            assert!((f64::from(*y) - f(x)).abs() < 1e-5, "{x}");
            let slope = (f(x + 1e-5) - f(x - 1e-5)) / 1e-5;
            assert!((f64::from(*dx) - slope).abs() < 1e-4, "{x} {dx} {slope}");
        }
    }
}
