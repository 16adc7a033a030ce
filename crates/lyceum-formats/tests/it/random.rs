//! Seeded random numbers (SplitMix64).

use crate::mutations::mutate;

/// A generator; its number is the seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A number around 0.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..12)
            .map(|_| self.next() as f32 / u64::MAX as f32)
            .sum::<f32>()
            - 6.0
    }

    /// `seed` mutated.
    pub(crate) fn mutated(&mut self, seed: &[u8]) -> Vec<u8> {
        mutate(&mut |n| self.below(n), seed)
    }
}
