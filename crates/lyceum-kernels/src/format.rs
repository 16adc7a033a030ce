//! The formats of quantised weights, by ggml's names.
//!
//! Source: the GGUF specification. The eight here are those that llama.cpp's common mixtures
//! (`Q4_0` to `Q8_0`, `Q4_K_S` to `Q6_K`) are made of.

use crate::blocks::decode;

/// Block layouts, by ggml's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "ggml's names")]
pub enum Format {
    /// 32 weights `d (q - 8)` of four bits.
    Q4_0,
    /// 32 weights `d q + m` of four bits.
    Q4_1,
    /// 32 weights `d (q - 16)` of five bits.
    Q5_0,
    /// 32 weights `d q + m` of five bits.
    Q5_1,
    /// 32 weights `d q` of eight bits.
    Q8_0,
    /// 256 weights of four bits: eight groups `d s q - m o`, with s and o of six bits.
    Q4_K,
    /// 256 weights of five bits: eight groups `d s q - m o`, with s and o of six bits.
    Q5_K,
    /// 256 weights of six bits: sixteen groups `d s (q - 32)`, with s of eight bits.
    Q6_K,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 8] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
    ];

    /// Weights per block.
    pub const fn block(self) -> usize {
        match self {
            Format::Q4_K | Format::Q5_K | Format::Q6_K => 256,
            _ => 32,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
        }
    }

    /// Bytes of a row of `n` weights, its last block filled up.
    pub const fn row_bytes(self, n: usize) -> usize {
        n.div_ceil(self.block()) * self.block_bytes()
    }

    /// Byte offsets in a block of its f16 numbers.
    fn halves(self) -> &'static [usize] {
        match self {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q6_K => &[208],
        }
    }

    /// Returns `true` if every weight of whole blocks is finite.
    pub fn finite(self, bytes: &[u8]) -> bool {
        let finite = |block: &[u8], at: usize| {
            let high = block.get(at + 1).copied().unwrap_or(0x7c);
            high & 0x7c != 0x7c
        };
        let mut blocks = bytes.chunks(self.block_bytes());
        blocks.all(|block| self.halves().iter().all(|at| finite(block, *at)))
    }

    /// The weights of whole blocks; `out` is as long as they are.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (bytes, out) in blocks.zip(out.chunks_exact_mut(self.block())) {
            decode(self, bytes, out);
        }
    }
}
