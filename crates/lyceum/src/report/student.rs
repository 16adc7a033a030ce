//! Student's distribution: how many standard errors a difference needs.

/// The share of Student's distribution with `df` degrees of freedom that is within `-t..t`
/// (Abramowitz and Stegun, 26.7.3 and 26.7.4).
pub(super) fn within(t: f64, df: usize) -> f64 {
    let angle = (t.abs() / (df as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = df % 2 == 1;
    let (mut k, mut term, mut sum) = match odd {
        true => (1, cosine, 0.0),
        false => (0, 1.0, 0.0),
    };
    while k + 2 <= df {
        sum += term;
        term *= cosine * cosine * (k + 1) as f64 / (k + 2) as f64;
        k += 2;
    }
    match odd {
        true => std::f64::consts::FRAC_2_PI * (angle + sine * sum),
        false => sine * sum,
    }
}

/// The `t` with 95 % of Student's distribution within `-t..t`.
pub(super) fn quantile(df: usize) -> f64 {
    let (mut low, mut high) = (0.0, 16.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match within(middle, df) < 0.95 {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (df, t) in [
            (1, 12.706_204_736),
            (2, 4.302_652_730),
            (3, 3.182_446_305),
            (4, 2.776_445_105),
            (9, 2.262_157_163),
            (30, 2.042_272_456),
            (199, 1.971_956_544),
            (2375, 1.960_958_5),
        ] {
            assert!(
                (quantile(df) - t).abs() < 1e-5 * t,
                "{df}: {}",
                quantile(df)
            );
        }
    }
}
