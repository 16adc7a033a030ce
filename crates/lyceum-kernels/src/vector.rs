//! The few register operations the packed products need, per level.

/// A register of `LANES` floats.
///
/// The methods of a level may run only on a processor that has it, and inline into a function
/// compiled for it.
pub(crate) trait Vector: Copy {
    /// Values held.
    const LANES: usize;
    /// # Safety
    /// The processor must have this level.
    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// The processor must have this level; `from` must hold `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// The processor must have this level; `to` must have room for `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`.
    ///
    /// # Safety
    /// The processor must have this level.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The low and the high bf16 halves of `LANES` words.
    ///
    /// # Safety
    /// The processor must have this level; `from` must hold `LANES` words.
    unsafe fn halves(from: *const u32) -> (Self, Self);
    /// Asks for the two registers' worth of memory at `at`, which will be written.
    ///
    /// # Safety
    /// The processor must have this level; any address is fine.
    #[inline(always)]
    unsafe fn expect(_at: *const f32) {}
    /// Rows as columns.
    ///
    /// # Safety
    /// The processor must have this level.
    #[inline(always)]
    unsafe fn transposed(block: &Block) -> Block {
        std::array::from_fn(|i| std::array::from_fn(|j| block[j][i]))
    }
}

/// Rows and columns of a [`Block`].
pub(crate) const SIDE: usize = 8;
/// A square of values that is transposed in registers.
pub(crate) type Block = [[f32; SIDE]; SIDE];

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: `from` holds 8 values, says the caller.
        Plain(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: `to` has room for 8 values, says the caller.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        let mut sum = self.0;
        for ((sum, a), b) in sum.iter_mut().zip(a.0).zip(b.0) {
            // A fused multiply-add is a library call where the processor lacks it.
            *sum = match cfg!(target_arch = "aarch64") {
                true => a.mul_add(b, *sum),
                false => *sum + a * b,
            };
        }
        Plain(sum)
    }
    #[inline(always)]
    unsafe fn halves(from: *const u32) -> (Self, Self) {
        // SAFETY: `from` holds 8 words, says the caller.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        let low = words.map(|w| f32::from_bits(w << 16));
        (
            Plain(low),
            Plain(words.map(|w| f32::from_bits(w & 0xffff_0000))),
        )
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Wide, Widest, round_pairs, turn};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Vector};
    use std::arch::x86_64::*;

    /// AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Wide(__m256);

    impl Vector for Wide {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the processor has AVX2, says the caller.
            Wide(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and `from` holds 8 values.
            Wide(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and `to` has room for 8 values.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the processor has FMA, says the caller.
            Wide(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn transposed(block: &Block) -> Block {
            // SAFETY: the processor has AVX2, says the caller.
            unsafe { turn(block) }
        }
        #[inline(always)]
        unsafe fn halves(from: *const u32) -> (Self, Self) {
            // SAFETY: the processor has AVX2 and `from` holds 8 words, says the caller.
            unsafe {
                let words = _mm256_loadu_si256(from.cast());
                let high = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                let low = _mm256_slli_epi32::<16>(words);
                (
                    Wide(_mm256_castsi256_ps(low)),
                    Wide(_mm256_castsi256_ps(high)),
                )
            }
        }
    }

    /// AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Widest(__m512);

    impl Widest {
        /// `self + x.0 w.0 + x.1 w.1` for the pair of bf16 `x` and a pair `w` per lane.
        ///
        /// # Safety
        /// The processor must have AVX512-BF16.
        #[inline(always)]
        pub(crate) unsafe fn add_pairs(self, x: u32, w: Self) -> Self {
            // SAFETY: the processor has AVX512-BF16, says the caller; any bits are bf16 pairs.
            unsafe {
                let x = _mm512_set1_epi32(x as i32);
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                let w = std::mem::transmute::<__m512, __m512bh>(w.0);
                Widest(_mm512_dpbf16_ps(self.0, x, w))
            }
        }
    }

    /// Rounds `x` to bf16, two to a word; an odd end is filled up with zero.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16.
    #[inline(always)]
    pub(crate) unsafe fn round_pairs(x: &[f32], pairs: &mut [u32]) {
        assert_eq!(x.len().div_ceil(2), pairs.len(), "two values to a word");
        let (whole, rest) = x.as_chunks::<16>();
        let (words, end) = pairs.split_at_mut(8 * whole.len());
        let mut edge = [0f32; 16];
        edge[..rest.len()].copy_from_slice(rest);
        // SAFETY: the processor has AVX512-BF16, says the caller; loads and stores stay inside.
        unsafe {
            let round = |x: &[f32; 16]| {
                let half = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr()));
                std::mem::transmute::<__m256bh, [u32; 8]>(half)
            };
            for (x, words) in whole.iter().zip(words.as_chunks_mut::<8>().0) {
                *words = round(x);
            }
            end.copy_from_slice(&round(&edge)[..end.len()]);
        }
    }

    /// Rows as columns.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn turn(block: &Block) -> Block {
        let mut x = [_mm256_setzero_ps(); 8];
        for (x, row) in x.iter_mut().zip(block) {
            // SAFETY: a row is a register's values.
            *x = unsafe { _mm256_loadu_ps(row.as_ptr()) };
        }
        // Pairs of rows, then fours, then the halves of registers.
        let mut fours = [[_mm256_setzero_pd(); 4]; 2];
        for (half, four) in fours.iter_mut().enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| x[4 * half + i]);
            let low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
            let high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
            let next_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
            let next_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
            *four = [
                _mm256_unpacklo_pd(low, next_low),
                _mm256_unpackhi_pd(low, next_low),
                _mm256_unpacklo_pd(high, next_high),
                _mm256_unpackhi_pd(high, next_high),
            ];
        }
        let mut transposed = Block::default();
        for i in 0..4 {
            let left = _mm256_permute2f128_pd::<0x20>(fours[0][i], fours[1][i]);
            let right = _mm256_permute2f128_pd::<0x31>(fours[0][i], fours[1][i]);
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(transposed[i].as_mut_ptr(), _mm256_castpd_ps(left));
                _mm256_storeu_ps(transposed[i + 4].as_mut_ptr(), _mm256_castpd_ps(right));
            }
        }
        transposed
    }

    impl Vector for Widest {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn expect(at: *const f32) {
            // SAFETY: a prefetch never faults.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{at}]",
                    "prefetchw [{at} + 64]",
                    at = in(reg) at,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the processor has AVX-512, says the caller.
            Widest(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and `from` holds 16 values.
            Widest(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as above, and `to` has room for 16 values.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the processor has AVX-512, says the caller.
            Widest(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn transposed(block: &Block) -> Block {
            // SAFETY: the processor has AVX-512, and so AVX2, says the caller.
            unsafe { turn(block) }
        }
        #[inline(always)]
        unsafe fn halves(from: *const u32) -> (Self, Self) {
            // SAFETY: the processor has AVX-512 and `from` holds 16 words, says the caller.
            unsafe {
                let words = _mm512_loadu_si512(from.cast());
                let high = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                let low = _mm512_slli_epi32::<16>(words);
                (
                    Widest(_mm512_castsi512_ps(low)),
                    Widest(_mm512_castsi512_ps(high)),
                )
            }
        }
    }
}
