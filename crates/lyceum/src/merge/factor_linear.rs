//! The mean of the A's and of the B's, each on its own (model soups, arXiv:2203.05482), as MTTL's
//! weighted linear merge.
//!
//! Every weight goes into A and into B, so that the update `s (sum_f w_f B_f)(sum_e w_e A_e)` is
//! quadratic in the weights and has a cross term for every pair of experts. It is no weighted sum
//! of the experts' updates: that is `linear`.

use super::Weights;
use crate::error::{Error, Result};

/// `sum_e w_e x_e` of one factor; summed in f64.
pub(super) fn merge(all: &[Vec<f32>], shares: &[f64]) -> Vec<f32> {
    let n = all.first().map_or(0, Vec::len);
    let sum = |i: usize| {
        let terms = all.iter().zip(shares).map(|(x, w)| w * f64::from(x[i]));
        terms.sum::<f64>() as f32
    };
    (0..n).map(sum).collect()
}

/// Refuses weights that two factors turn into something else.
///
/// # Errors
/// [`Error::Invalid`] naming a negative weight, or when all are zero.
pub(super) fn check(weights: &Weights) -> Result<()> {
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| **weight < 0.0) {
        return Err(Error::invalid(format!(
            "`factor-linear` cannot give `{name}` the weight {weight}: it multiplies A and B each, \
             so that the sign cancels; `linear` is the weighted sum of the updates"
        )));
    }
    match weights.values().sum::<f64>() == 0.0 {
        true => Err(Error::invalid(
            "`factor-linear` needs weights that do not sum to 0: it is a mean",
        )),
        false => Ok(()),
    }
}

/// A word on weights whose mean is stretched, squared.
pub(super) fn caution(weights: &Weights) -> Option<String> {
    let sum: f64 = weights.values().sum();
    ((sum - 1.0).abs() > 1e-6).then(|| {
        format!(
            "the weights sum to {sum}, and A and B both take them: the update is {} times that \
             of weights that sum to 1; `linear` is the weighted sum of the updates",
            sum * sum
        )
    })
}
