//! Numbers for the tests.

/// `n` values between -1 and 1, drawn by `seed`.
pub(crate) fn values(n: usize, seed: u32) -> Vec<f32> {
    let next = |s: &mut u32, _| {
        *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*s >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..n)
        .scan(seed.wrapping_mul(2_654_435_761), next)
        .collect()
}

/// The largest difference, relative to the larger of the value wanted and 1.
pub(crate) fn apart(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().zip(want);
    let each = pairs.map(|(a, b)| (f64::from(*a) - b).abs() / (1.0 + b.abs()));
    each.fold(0.0, |m, x| if x <= m { m } else { x })
}
