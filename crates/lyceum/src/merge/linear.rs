//! The weighted mean of factors (model soups, arXiv:2203.05482), as MTTL's weighted linear merge.

/// `sum_e w_e x_e` of one factor; summed in f64.
pub(super) fn merge(all: &[Vec<f32>], shares: &[f64]) -> Vec<f32> {
    let n = all.first().map_or(0, Vec::len);
    let sum = |i: usize| {
        let terms = all.iter().zip(shares).map(|(x, w)| w * f64::from(x[i]));
        terms.sum::<f64>() as f32
    };
    (0..n).map(sum).collect()
}
