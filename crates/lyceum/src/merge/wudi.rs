//! WUDI (arXiv:2503.08099) factor by factor, as MTTL computes it: the merged factor m minimises
//! `sum_e |(m - v_e) v_e^T|^2 / |v_e|^2` in MTTL's layout (A `[d_in, r]`, B `[r, d_out]`), by
//! Adam from the sum of all v, and is divided by their number.
//!
//! In PEFT's layout, which is the transpose, the terms are `|v_e^T (m - v_e)|^2 / |v_e|^2`; the
//! gradient is `2 v_e v_e^T (m - v_e) / |v_e|^2`, and the loss half its product with `m - v_e`.

use faer::Mat;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// The descent stops after so many updates in a row that change the loss by less than this.
const PATIENCE: usize = 5;
const LEAST_CHANGE: f64 = 1e-4;

/// One factor `[n, m]` of all experts.
pub(super) fn merge(all: &[Vec<f32>], n: usize, m: usize, steps: usize, lr: f64) -> Vec<f32> {
    let matrix = |x: &Vec<f32>| Mat::from_fn(n, m, |i, j| f64::from(x[i * m + j]));
    let all: Vec<Term> = all.iter().map(|x| Term::new(matrix(x))).collect();
    let mut merged = all
        .iter()
        .fold(Mat::zeros(n, m), |sum, term| sum + &term.value);
    let (mut first, mut second) = (Mat::<f64>::zeros(n, m), Mat::<f64>::zeros(n, m));
    let (mut before, mut still) = (f64::INFINITY, 0);
    for step in 1..=steps {
        let (mut loss, mut gradient) = (0.0, Mat::<f64>::zeros(n, m));
        for term in &all {
            loss += term.add(&merged, &mut gradient);
        }
        let correct1 = 1.0 - BETA1.powi(step as i32);
        let correct2 = (1.0 - BETA2.powi(step as i32)).sqrt();
        for j in 0..m {
            for i in 0..n {
                let g = gradient[(i, j)];
                first[(i, j)] += (g - first[(i, j)]) * (1.0 - BETA1);
                second[(i, j)] = BETA2 * second[(i, j)] + (1.0 - BETA2) * g * g;
                let scale = second[(i, j)].sqrt() / correct2 + EPSILON;
                merged[(i, j)] -= lr / correct1 * first[(i, j)] / scale;
            }
        }
        still = if (before - loss).abs() < LEAST_CHANGE {
            still + 1
        } else {
            0
        };
        if still >= PATIENCE {
            break;
        }
        before = loss;
    }
    let count = all.len() as f64;
    let values = (0..n).flat_map(|i| (0..m).map(move |j| (i, j)));
    values.map(|at| (merged[at] / count) as f32).collect()
}

/// One expert's term of the loss.
struct Term {
    value: Mat<f64>,
    /// `v v^T` where that is the smaller of the two products.
    outer: Option<Mat<f64>>,
    square: f64,
}

impl Term {
    fn new(value: Mat<f64>) -> Self {
        let outer = (value.nrows() <= value.ncols()).then(|| &value * value.transpose());
        let square = value.squared_norm_l2();
        Term {
            value,
            outer,
            square,
        }
    }

    /// This term's loss at `merged`; its gradient is added to `gradient`. A zero factor interferes
    /// with nothing.
    fn add(&self, merged: &Mat<f64>, gradient: &mut Mat<f64>) -> f64 {
        if self.square == 0.0 {
            return 0.0;
        }
        let off = merged - &self.value;
        let pull = match &self.outer {
            Some(outer) => outer * &off,
            None => &self.value * (self.value.transpose() * &off),
        };
        let mut loss = 0.0;
        for j in 0..off.ncols() {
            for i in 0..off.nrows() {
                loss += pull[(i, j)] * off[(i, j)] / self.square;
                gradient[(i, j)] += 2.0 * pull[(i, j)] / self.square;
            }
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_that_do_not_meet_are_kept_whole() {
        // Rows of MTTL's layout that are orthogonal: the sum already interferes with neither.
        let all = [vec![3.0, 0.0], vec![0.0, 4.0]];
        let got = merge(&all, 2, 1, 100, 1e-2);
        assert!(
            got.iter()
                .zip([1.5, 2.0])
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{got:?}"
        );
    }

    #[test]
    fn interference_falls() {
        let all = [vec![1.0, 0.5, 0.2, 1.0], vec![0.4, 1.0, -1.0, 0.3]];
        let loss = |m: &[f32]| {
            let m = Mat::from_fn(2, 2, |i, j| f64::from(2.0 * m[i * 2 + j]));
            let term = |x: &Vec<f32>| {
                let value = Mat::from_fn(2, 2, |i, j| f64::from(x[i * 2 + j]));
                Term::new(value).add(&m, &mut Mat::zeros(2, 2))
            };
            all.iter().map(term).sum::<f64>()
        };
        let mean: Vec<f32> = all[0]
            .iter()
            .zip(&all[1])
            .map(|(a, b)| (a + b) / 2.0)
            .collect();
        assert!(loss(&merge(&all, 2, 2, 200, 1e-2)) < 0.5 * loss(&mean));
    }
}
