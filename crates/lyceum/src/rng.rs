//! Seeded random numbers that are the same on every machine: SplitMix64 seeds, xoshiro256++.
//!
//! Streams are derived from a seed *and a name*, so adding an expert changes no other's draw.
//! Sources: <https://prng.di.unimi.it/> (algorithms), docs/decisions.md (how anything is reproducible).

use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

/// A deterministic random number generator (xoshiro256++).
///
/// ```
/// use lyceum::rng::Rng;
///
/// let (mut one, mut again) = (Rng::named(42, "sums"), Rng::named(42, "sums"));
/// assert_eq!(one.next_u64(), again.next_u64());
/// assert_ne!(Rng::named(42, "sums").next_u64(), Rng::named(42, "words").next_u64());
/// ```
#[derive(Debug, Clone)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Rng([next(), next(), next(), next()])
    }

    /// The stream that belongs to `name` under `seed`, independent of every other name's.
    pub fn named(seed: u64, name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let word = |i: usize| (0..8).fold(0, |w, j| w << 8 | u64::from(digest[8 * i + j]));
        Rng([word(0) | 1, word(1), word(2), word(3)])
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[0, n)`; `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// `n` values uniform in `[-bound, bound)`.
    pub fn uniform(&mut self, n: usize, bound: f64) -> Vec<f32> {
        (0..n)
            .map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32)
            .collect()
    }

    /// `n` normal values of mean 0 and deviation `sd` (Box-Muller).
    pub fn normal(&mut self, n: usize, sd: f64) -> Vec<f32> {
        (0..n)
            .map(|_| {
                let (u, v) = (1.0 - self.unit(), self.unit());
                ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * sd) as f32
            })
            .collect()
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A number of the system's random source, which no seed reproduces: for names and pauses, never
/// for results.
pub(crate) fn entropy() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// An identifier that no other writer has, 32 hex digits: from the system's random source, the time
/// and the process.
pub(crate) fn unique_id() -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.unwrap_or_default();
    let process = std::process::id();
    let text = format!("{} {} {time:?} {process}", entropy(), entropy());
    crate::digest::sha256(text.as_bytes())[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name() {
        let draw = |mut rng: Rng| (0..4).map(|_| rng.next_u64()).collect::<Vec<_>>();
        assert_eq!(draw(Rng::named(1, "a")), draw(Rng::named(1, "a")));
        assert_ne!(draw(Rng::named(1, "a")), draw(Rng::named(1, "b")));
        assert_ne!(draw(Rng::named(1, "a")), draw(Rng::named(2, "a")));
        assert_ne!(draw(Rng::new(1)), draw(Rng::new(2)));
    }

    #[test]
    fn draws_have_the_moments_they_should() {
        let mut rng = Rng::new(7);
        let normal = rng.normal(20_000, 2.0);
        let mean = normal.iter().sum::<f32>() / 20_000.0;
        let var = normal.iter().map(|x| x * x).sum::<f32>() / 20_000.0;
        assert!(
            mean.abs() < 0.05 && (var - 4.0).abs() < 0.15,
            "{mean} {var}"
        );
        let mut order: Vec<usize> = (0..100).collect();
        rng.shuffle(&mut order);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(order != sorted && sorted == (0..100).collect::<Vec<_>>());
        assert!((0..1000).all(|_| rng.below(7) < 7));
    }
}
