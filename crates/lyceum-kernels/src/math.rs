//! Loops the compiler vectorises, compiled once for the baseline and once for wider registers.

use half::bf16;

/// Defines `fn name(args)` that runs `body` compiled for AVX-512, AVX2 or the baseline, whichever
/// this processor has.
///
/// Functions that `body` calls must be inlined to be compiled so: write loops, not `map(..).sum()`
/// or `fold`, which may stay functions of their own, without the wider registers and with calls of
/// `fmaf`.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $ty),*) $(-> $ret)? { plain($($arg),*) }
                if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the features were just detected.
                    return unsafe { wide($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just detected.
                    return unsafe { middle($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use dispatch;

/// `e^x` to a relative error below 2e-7 for x in [-87, 88], clamped outside; vectorises.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // 2^n * e^r with |r| <= ln 2 / 2, ln 2 split in two so that r is exact.
    // Beside 1.5 * 2^23 floats are whole numbers, whose lowest bits are n: no conversion, which
    // would not vectorise.
    const WHOLE: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_66);
    let p = p.mul_add(r, 0.5);
    let y = (p * r).mul_add(r, r) + 1.0;
    y * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `tanh x`, absolute error below 1e-6; vectorises.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let e = exp(2.0 * x.clamp(-10.0, 10.0));
    (e - 1.0) / (e + 1.0)
}

/// The normal distribution `Phi(x)`, absolute error below 3e-7; vectorises.
///
/// Abramowitz and Stegun 7.1.26 for the error function.
#[inline(always)]
pub(crate) fn normal(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1f32.mul_add(z, 1.0);
    let p = 1.061_405_4f32;
    let p = p.mul_add(t, -1.453_152_1);
    let p = p.mul_add(t, 1.421_413_8);
    let p = p.mul_add(t, -0.284_496_72);
    let p = p.mul_add(t, 0.254_829_6);
    let tail = 0.5 * p * t * exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `cap tanh(x / cap)`, and its slope; accurate for small `x / cap` too.
#[inline(always)]
pub(crate) fn soft_cap(x: f32, cap: f32) -> (f32, f32) {
    let z = x / cap;
    let q = z * z;
    // The series to z^9; its next term is below 1e-8 where it is used.
    let series =
        z * (1.0 - q * (1.0 / 3.0 - q * (2.0 / 15.0 - q * (17.0 / 315.0 - q * (62.0 / 2835.0)))));
    let t = if q < 0.0625 { series } else { tanh(z) };
    (cap * t, 1.0 - t * t)
}

/// `x` rounded to bf16: to nearest, ties to even; NaN stays NaN. Vectorises.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { quiet } else { up })
}

/// Running sums of a loop over a row, and values that are taken together.
pub(crate) const LANES: usize = 16;

/// A number as it is kept.
pub(crate) trait Number: Copy {
    /// Its value.
    fn value(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Sum of products, in sixteen running sums.
#[inline(always)]
pub(crate) fn dot<T: Number>(a: &[f32], b: &[T]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y.value())
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] = x[i].mul_add(y[i].value(), sums[i]);
        }
    }
    together(sums, |a, b| a + b) + rest
}

/// All lanes as one, halves first.
#[inline(always)]
fn together(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Mean of `x`, and 1 over its standard deviation (biased), `eps` added to the variance; in
/// sixteen running sums.
#[inline(always)]
pub(crate) fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// The sum of `f` over `x`, in sixteen running sums.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for x in chunks {
        for i in 0..LANES {
            sums[i] += f(x[i]);
        }
    }
    let mut last = 0.0;
    for x in rest {
        last += f(*x);
    }
    sums.iter().sum::<f32>() + last
}

/// The sum of `f` over pairs, in sixteen running sums.
#[inline(always)]
pub(crate) fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] += f(a[i], b[i]);
        }
    }
    let mut last = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        last += f(*a, *b);
    }
    sums.iter().sum::<f32>() + last
}

/// The largest value of a row, sixteen at a time.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            tops[i] = if chunk[i] > tops[i] {
                chunk[i]
            } else {
                tops[i]
            };
        }
    }
    let top = together(tops, |a, b| if a > b { a } else { b });
    rest.iter().fold(top, |m, x| m.max(*x))
}

/// `y += scale * x`.
#[inline(always)]
pub(crate) fn axpy<T: Number>(scale: f32, x: &[T], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = scale.mul_add(x.value(), *y);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_and_tanh_are_accurate() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            assert!((f64::from(super::exp(x)) / want - 1.0).abs() < 3e-7, "{x}");
            let want = f64::from(x).tanh();
            assert!((f64::from(super::tanh(x)) - want).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn rounding_is_that_of_bf16() {
        let odd = [
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-40,
        ];
        let many = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(42_949)));
        for x in odd.into_iter().chain(many) {
            let want = half::bf16::from_f32(x).to_f32();
            assert_eq!(super::round(x).to_bits(), want.to_bits(), "{x}");
        }
    }

    #[test]
    fn soft_caps_are_accurate() {
        for i in -4000..4000 {
            let x = i as f32 * 0.05;
            let (y, slope) = super::soft_cap(x, 50.0);
            let t = (f64::from(x) / 50.0).tanh();
            assert!((f64::from(y) - 50.0 * t).abs() < 3e-5, "{x} {y}");
            assert!((f64::from(slope) - (1.0 - t * t)).abs() < 1e-6, "{x}");
        }
    }
}
