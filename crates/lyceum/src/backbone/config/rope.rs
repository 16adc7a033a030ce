//! Rotary positions: how fast each pair turns, and the ways contexts are stretched.
//!
//! RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071; LongRoPE, arXiv 2402.13753. Frequencies
//! are computed in f32, as the checkpoints' own programs do: far from the start the rounding of
//! an angle is visible.

use std::f64::consts::PI;

use lyceum_kernels::rope::Angles;
use serde::Serialize;

use crate::mix::SeqLens;

/// Rotary positions of one decoder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rope {
    /// Values of each head that turn; the others do not.
    pub dims: usize,
    /// Base of the wavelengths.
    pub theta: f64,
    /// The method of context extension.
    pub scaling: Scaling,
}

/// Methods of context extension, in the terms of `rope_scaling`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Factor of the context length.
        factor: f64,
    },
    /// A larger base, growing with the sequence beyond `original` positions.
    Dynamic {
        /// Factor of the context length.
        factor: f64,
        /// Positions of the original training.
        original: usize,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Factor of the context length.
        factor: f64,
        /// Turns over the original context below which a pair is divided.
        low: f64,
        /// Turns over the original context above which a pair is kept.
        high: f64,
        /// Positions of the original training.
        original: usize,
    },
    /// YaRN: the same by pair index, and scores made sharper.
    Yarn {
        /// Factor of the context length.
        factor: f64,
        /// Multiplies cosines and sines.
        attention: f64,
        /// First and last pair of the ramp between kept and divided.
        ramp: (f64, f64),
        /// Positions of the original training.
        original: usize,
    },
    /// LongRoPE: one divisor per pair, for short and for long sequences.
    LongRope {
        /// Divisors up to `original` positions.
        short: Vec<f64>,
        /// Divisors beyond.
        long: Vec<f64>,
        /// Multiplies cosines and sines.
        attention: f64,
        /// Positions of the original training.
        original: usize,
    },
}

impl Rope {
    /// Radians per position of every pair in a sequence of `len` tokens, `[dims / 2]`, and what
    /// multiplies cosines and sines.
    pub(super) fn frequencies(&self, len: usize) -> (Vec<f32>, f32) {
        let dims = self.dims as f64;
        let plain = |theta: f64| -> Vec<f32> {
            let pairs = 0..self.dims / 2;
            let power = |i: usize| (theta as f32).powf((2 * i) as f32 / self.dims as f32);
            pairs.map(|i| 1.0 / power(i)).collect()
        };
        let of = plain(self.theta);
        match &self.scaling {
            Scaling::Default => (of, 1.0),
            Scaling::Linear { factor } => (of.iter().map(|f| f / *factor as f32).collect(), 1.0),
            Scaling::Dynamic { factor, original } => {
                let original = *original as f64;
                let stretch = factor * (len as f64).max(original) / original - (factor - 1.0);
                let theta = match self.dims > 2 {
                    true => self.theta * stretch.powf(dims / (dims - 2.0)),
                    false => self.theta,
                };
                (plain(theta), 1.0)
            }
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                let slowed = |f: &f32| {
                    let f = f64::from(*f);
                    let turns = *original as f64 * f / (2.0 * PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    ((1.0 - kept) * f / factor + kept * f) as f32
                };
                (of.iter().map(slowed).collect(), 1.0)
            }
            Scaling::Yarn {
                factor,
                attention,
                ramp: (low, high),
                ..
            } => {
                let width = if low == high { 0.001 } else { high - low };
                let slowed = |(i, f): (usize, &f32)| {
                    let f = f64::from(*f);
                    let divided = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    (f / factor * divided + f * (1.0 - divided)) as f32
                };
                let all = of.iter().enumerate().map(slowed).collect();
                (all, *attention as f32)
            }
            Scaling::LongRope {
                short,
                long,
                attention,
                original,
            } => {
                let divisors = if len > *original { long } else { short };
                let slowed = |(f, by): (&f32, &f64)| (f64::from(*f) / by) as f32;
                let all = of.iter().zip(divisors).map(slowed).collect();
                (all, *attention as f32)
            }
        }
    }

    /// The angles of every token of `seq_lens`.
    pub(in crate::backbone) fn angles(&self, seq_lens: &SeqLens) -> Angles {
        let half = self.dims / 2;
        let n = seq_lens.tokens() * half;
        let (mut cos, mut sin) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let positions = seq_lens.positions();
        let mut start = 0;
        let mut known: Option<(usize, (Vec<f32>, f32))> = None;
        for &len in seq_lens.lens().iter() {
            let own = &positions[start..start + len];
            start += len;
            let Some(&last) = own.last() else { continue };
            let total = last as usize + 1;
            let fits = |(len, _): &(usize, _)| self.same(*len, total);
            let (_, (frequencies, factor)) = match known.take().filter(fits) {
                Some(found) => known.insert(found),
                None => known.insert((total, self.frequencies(total))),
            };
            for position in own {
                for frequency in frequencies.iter() {
                    let (s, c) = (*position as f32 * frequency).sin_cos();
                    cos.push(c * *factor);
                    sin.push(s * *factor);
                }
            }
        }
        Angles { cos, sin, half }
    }

    /// Returns `true` if sequences of these lengths have the same frequencies.
    fn same(&self, a: usize, b: usize) -> bool {
        match &self.scaling {
            Scaling::Dynamic { original, .. } => a.max(*original) == b.max(*original),
            Scaling::LongRope { original, .. } => (a > *original) == (b > *original),
            _ => true,
        }
    }
}
