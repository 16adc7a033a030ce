//! Activations, elementwise, plain or gating a second value.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::math;
use crate::memory::written;

/// Values per block of work.
const BLOCK: usize = 4096;
/// sqrt(2 / pi).
const SLOPE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;
/// 1 / sqrt(2 pi).
const DENSITY: f32 = 0.398_942_3;

/// An elementwise function, by the names checkpoints use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: "gelu_new", "gelu_pytorch_tanh".
    GeluTanh,
    /// `x Phi(x)` with the normal distribution `Phi`: "gelu".
    Gelu,
    /// `x / (1 + e^-x)`: "silu", "swish".
    Silu,
    /// `max(x, 0)`: "relu".
    Relu,
}

// Each function gives (value, slope) at x.

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let t = math::tanh(SLOPE * (CUBE * x * x).mul_add(x, x));
    let inner = SLOPE * (3.0 * CUBE * x * x + 1.0);
    let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
    (0.5 * x * (1.0 + t), slope)
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let phi = math::normal(x);
    (x * phi, x.mul_add(DENSITY * math::exp(-0.5 * x * x), phi))
}

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + math::exp(-x));
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 })
}

/// Calls `$body!(function)` for the function of `$kind`, so that each loop is compiled for one.
macro_rules! each {
    ($kind:expr, $body:ident) => {
        match $kind {
            Activation::GeluTanh => $body!(gelu_tanh),
            Activation::Gelu => $body!(gelu),
            Activation::Silu => $body!(silu),
            Activation::Relu => $body!(relu),
        }
    };
}

math::dispatch! {
    fn block(kind: Activation, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        macro_rules! run { ($f:ident) => {
            for (x, y) in x.iter().zip(y) {
                y.write($f(*x).0);
            }
        } }
        each!(kind, run);
    }
}

math::dispatch! {
    fn block_backward(kind: Activation, x: &[f32], dy: &mut [f32]) {
        macro_rules! run { ($f:ident) => {
            for (x, dy) in x.iter().zip(dy) {
                *dy *= $f(*x).1;
            }
        } }
        each!(kind, run);
    }
}

math::dispatch! {
    fn gated_block(kind: Activation, gate: &[f32], x: &[f32], y: &mut [MaybeUninit<f32>]) {
        macro_rules! run { ($f:ident) => {
            for ((gate, x), y) in gate.iter().zip(x).zip(y) {
                y.write($f(*gate).0 * x);
            }
        } }
        each!(kind, run);
    }
}

math::dispatch! {
    fn gated_block_backward(
        kind: Activation, gate: &[f32], x: &[f32], dy: &mut [f32], dgate: &mut [MaybeUninit<f32>],
    ) {
        macro_rules! run { ($f:ident) => {
            for (((gate, x), dy), dgate) in gate.iter().zip(x).zip(dy).zip(dgate) {
                let (value, slope) = $f(*gate);
                dgate.write(*dy * x * slope);
                *dy *= value;
            }
        } }
        each!(kind, run);
    }
}

/// `f(x)`.
pub fn forward(kind: Activation, x: &[f32]) -> Vec<f32> {
    let write = |y: &mut [MaybeUninit<f32>]| {
        let blocks = x.par_chunks(BLOCK).zip(y.par_chunks_mut(BLOCK));
        blocks.for_each(|(x, y)| block(kind, x, y));
    };
    // SAFETY: a block writes every value.
    unsafe { written(x.len(), write) }
}

/// Gradient of [`forward`]: `dy` becomes that of `x`.
pub fn backward(kind: Activation, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "as many values");
    x.par_chunks(BLOCK)
        .zip(dy.par_chunks_mut(BLOCK))
        .for_each(|(x, dy)| block_backward(kind, x, dy));
}

/// `f(gate) x`.
pub fn gated(kind: Activation, gate: &[f32], x: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), x.len(), "as many values");
    let write = |y: &mut [MaybeUninit<f32>]| {
        gate.par_chunks(BLOCK)
            .zip(x.par_chunks(BLOCK))
            .zip(y.par_chunks_mut(BLOCK))
            .for_each(|((gate, x), y)| gated_block(kind, gate, x, y));
    };
    // SAFETY: a block writes every value.
    unsafe { written(x.len(), write) }
}

/// Gradients of [`gated`]: that of the gate, and `dy` becomes that of `x`.
pub fn gated_backward(kind: Activation, gate: &[f32], x: &[f32], dy: &mut [f32]) -> Vec<f32> {
    assert!(
        gate.len() == x.len() && x.len() == dy.len(),
        "as many values"
    );
    let write = |dgate: &mut [MaybeUninit<f32>]| {
        gate.par_chunks(BLOCK)
            .zip(x.par_chunks(BLOCK))
            .zip(dy.par_chunks_mut(BLOCK))
            .zip(dgate.par_chunks_mut(BLOCK))
            .for_each(|(((gate, x), dy), dgate)| gated_block_backward(kind, gate, x, dy, dgate));
    };
    // SAFETY: a block writes every value.
    unsafe { written(x.len(), write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Activation; 4] = [
        Activation::GeluTanh,
        Activation::Gelu,
        Activation::Silu,
        Activation::Relu,
    ];

    /// The error function by its series, in f64; exact to rounding for |x| < 6.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn plain(kind: Activation, x: f64) -> f64 {
        let cube = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        match kind {
            Activation::GeluTanh => 0.5 * x * (1.0 + cube.tanh()),
            Activation::Gelu if x.abs() > 5.5 => x.max(0.0),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Relu => x.max(0.0),
        }
    }

    #[test]
    fn values_and_slopes_equal_the_formulas() {
        // Off the grid of zeros, where relu has no slope.
        let x: Vec<f32> = (-500..500).map(|i| i as f32 * 0.02 + 0.003).collect();
        for kind in ALL {
            let (y, mut dx) = (forward(kind, &x), vec![2.0; x.len()]);
            backward(kind, &x, &mut dx);
            for ((x, y), dx) in x.iter().zip(&y).zip(&dx) {
                let x = f64::from(*x);
                let f = |x| plain(kind, x);
                assert!((f64::from(*y) - f(x)).abs() < 5e-6, "{kind:?} {x} {y}");
                let slope = (f(x + 1e-5) - f(x - 1e-5)) / 1e-5;
                assert!((f64::from(*dx) - slope).abs() < 1e-4, "{kind:?} {x} {dx}");
            }
        }
    }

    #[test]
    fn a_gate_and_its_gradients_equal_the_formulas() {
        let n = 4099;
        let gate: Vec<f32> = (0..n)
            .map(|i| 4.0 * (i as f32 * 0.37).sin() + 1e-3)
            .collect();
        let x: Vec<f32> = (0..n).map(|i| 2.0 * (i as f32 * 0.91).cos()).collect();
        let dy: Vec<f32> = (0..n).map(|i| (i as f32 * 0.53).sin()).collect();
        for kind in ALL {
            let (y, mut dx) = (gated(kind, &gate, &x), dy.clone());
            let dgate = gated_backward(kind, &gate, &x, &mut dx);
            for i in 0..n {
                let [g, x, dy] = [gate[i], x[i], dy[i]].map(f64::from);
                let f = plain(kind, g);
                let slope = (plain(kind, g + 1e-5) - plain(kind, g - 1e-5)) / 2e-5;
                assert!((f64::from(y[i]) - f * x).abs() < 2e-5);
                assert!((f64::from(dx[i]) - f * dy).abs() < 2e-5);
                assert!((f64::from(dgate[i]) - dy * x * slope).abs() < 1e-4);
            }
        }
    }
}
