//! TIES (arXiv:2306.01708) as MTTL computes it: trim each expert to its largest values over all
//! its weights, elect the sign of the sum, average the values that have it.

use crate::error::Result;
use crate::expert::Expert;

/// Per expert the least magnitude that is kept: the `1 - density` quantile over all its weights,
/// linearly interpolated.
pub(super) fn trims(experts: &[&Expert], density: f64) -> Result<Vec<f32>> {
    let trim = |expert: &&Expert| {
        let mut sizes = Vec::new();
        for lora in expert.loras.values() {
            for factor in [&lora.a, &lora.b] {
                let values = factor.flatten_all()?.to_vec1::<f32>()?;
                sizes.extend(values.into_iter().map(f32::abs));
            }
        }
        sizes.sort_unstable_by(f32::total_cmp);
        let at = (1.0 - density) * sizes.len().saturating_sub(1) as f64;
        let value = |i: usize| sizes.get(i).map_or(0.0, |x| f64::from(*x));
        let low = at.floor() as usize;
        Ok((value(low) + (value(low + 1) - value(low)) * at.fract()) as f32)
    };
    experts.iter().map(trim).collect()
}

/// One factor of all experts, each trimmed at its own magnitude.
pub(super) fn merge(all: &[Vec<f32>], trims: &[f32]) -> Vec<f32> {
    let n = all.first().map_or(0, Vec::len);
    let value = |i: usize| {
        let kept = || {
            let pairs = all.iter().zip(trims).map(|(x, trim)| (x[i], *trim));
            pairs
                .filter(|(x, trim)| x.abs() >= *trim && *x != 0.0)
                .map(|(x, _)| x)
        };
        let elected: f32 = kept().sum();
        let agree = || kept().filter(|x| x * elected > 0.0);
        let count = agree().count().max(1);
        (agree().map(f64::from).sum::<f64>() / count as f64) as f32
    };
    (0..n).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_side_is_elected_and_averaged() {
        let all = [
            vec![1.0, 3.0, 0.1],
            vec![2.0, -5.0, 0.0],
            vec![-0.5, 1.0, -0.1],
        ];
        assert_eq!(merge(&all, &[0.0; 3]), [1.5, -5.0, 0.0]);
        assert_eq!(merge(&all, &[0.0, 2.5, 0.0])[..2], [1.0, -5.0]);
    }
}
