//! Quantised weights, a block at a time, in the layouts of ggml.
//!
//! A block holds 32 or 256 successive weights of a row as small whole numbers, with a scale (and
//! for some an offset) in f16 that turns them back into numbers. Source: the GGUF specification
//! and ggml's block structures. The eight formats here are those that llama.cpp's common mixtures
//! (`Q4_0` to `Q8_0`, `Q4_K_S` to `Q6_K`) are made of.

use half::f16;

/// How blocks are laid out, by ggml's names.
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
    /// The same with q of five bits.
    Q5_K,
    /// 256 weights of six bits: sixteen groups `d s (q - 32)`, with s of eight bits.
    Q6_K,
}

/// The longest block.
pub(crate) const LONGEST: usize = 256;

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

    /// Where in a block the f16 numbers stand.
    fn halves(self) -> &'static [usize] {
        match self {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q6_K => &[208],
        }
    }

    /// Whether every weight of whole blocks is finite.
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

/// One format's blocks.
pub(crate) trait Block {
    const LEN: usize;
    const BYTES: usize;
    /// The weights of one block: `bytes` and `out` are as long as the constants say.
    fn decode(bytes: &[u8], out: &mut [f32]);
}

/// The weights of one block.
#[inline(always)]
pub(crate) fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::Q4_0 => Q4_0::decode(bytes, out),
        Format::Q4_1 => Q4_1::decode(bytes, out),
        Format::Q5_0 => Q5_0::decode(bytes, out),
        Format::Q5_1 => Q5_1::decode(bytes, out),
        Format::Q8_0 => Q8_0::decode(bytes, out),
        Format::Q4_K => Q4K::decode(bytes, out),
        Format::Q5_K => Q5K::decode(bytes, out),
        Format::Q6_K => Q6K::decode(bytes, out),
    }
}

/// The finite f16 at `at`: its bits in f32's place, times 2^112 for the other bias.
#[inline(always)]
fn number(bytes: &[u8], at: usize) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(239 << 23);
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// 32 weights `d q + m` from 16 bytes of nibbles, the low ones first, each with `more` added.
#[inline(always)]
fn nibbles(bytes: &[u8], d: f32, m: f32, more: impl Fn(usize) -> u8, out: &mut [f32]) {
    let (low, high) = out[..32].split_at_mut(16);
    let (low, high): (&mut [f32], &mut [f32]) = (low, high);
    for (i, (byte, (low, high))) in bytes[..16].iter().zip(low.iter_mut().zip(high)).enumerate() {
        *low = d * f32::from(byte & 15 | more(i)) + m;
        *high = d * f32::from(byte >> 4 | more(i + 16)) + m;
    }
}

/// The fifth bits of 32 weights, in place.
#[inline(always)]
fn fifth(bytes: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    move |i| ((bits >> i & 1) << 4) as u8
}

pub(crate) struct Q4_0;
impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q4_0.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        let d = number(bytes, 0);
        nibbles(&bytes[2..], d, -8.0 * d, |_| 0, out);
    }
}

pub(crate) struct Q4_1;
impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q4_1.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        nibbles(&bytes[4..], number(bytes, 0), number(bytes, 2), |_| 0, out);
    }
}

pub(crate) struct Q5_0;
impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q5_0.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        let d = number(bytes, 0);
        nibbles(&bytes[6..], d, -16.0 * d, fifth(bytes, 2), out);
    }
}

pub(crate) struct Q5_1;
impl Block for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q5_1.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        let (d, m) = (number(bytes, 0), number(bytes, 2));
        nibbles(&bytes[8..], d, m, fifth(bytes, 4), out);
    }
}

pub(crate) struct Q8_0;
impl Block for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q8_0.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        let d = number(bytes, 0);
        for (out, byte) in out[..32].iter_mut().zip(&bytes[2..34]) {
            *out = d * f32::from(byte.cast_signed());
        }
    }
}

impl Q8_0 {
    /// The largest size of a weight that a block can hold.
    pub(crate) const LARGEST: f32 = 127.0 * 65504.0;

    /// Rounds at most 32 weights, none above [`Q8_0::LARGEST`], to one block.
    pub(crate) fn encode(weights: &[f32], bytes: &mut [u8]) {
        let most = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
        let mut d = f16::from_f32(most / 127.0);
        if d.to_f32() * 127.0 < most {
            d = f16::from_bits(d.to_bits() + 1);
        }
        bytes[..2].copy_from_slice(&d.to_le_bytes());
        let d = d.to_f32();
        for (byte, w) in bytes[2..34].iter_mut().zip(weights) {
            let q = if d > 0.0 { w / d } else { 0.0 };
            *byte = (q.round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned();
        }
    }
}

/// Scale and offset of group `i` of eight, six bits each in twelve bytes.
#[inline(always)]
fn group(bytes: &[u8], i: usize) -> (f32, f32) {
    let (scale, offset) = match i < 4 {
        true => (bytes[i] & 63, bytes[i + 4] & 63),
        false => (
            bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4,
            bytes[i + 4] >> 4 | bytes[i] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(offset))
}

/// 256 weights in eight groups of 32; `high` holds the fifth bits, one group per bit.
#[inline(always)]
fn groups(bytes: &[u8], high: Option<&[u8]>, low: &[u8], out: &mut [f32]) {
    let (d, m) = (number(bytes, 0), number(bytes, 2));
    for pair in 0..4 {
        let low = &low[32 * pair..][..32];
        let out = &mut out[64 * pair..][..64];
        for half in 0..2 {
            let (s, o) = group(&bytes[4..16], 2 * pair + half);
            let (d, m) = (d * s, m * o);
            let out = &mut out[32 * half..][..32];
            match high {
                None => {
                    for (out, byte) in out.iter_mut().zip(low) {
                        *out = d * f32::from(byte >> (4 * half) & 15) - m;
                    }
                }
                Some(high) => {
                    for ((out, byte), high) in out.iter_mut().zip(low).zip(&high[..32]) {
                        let fifth = (high >> (2 * pair + half) & 1) << 4;
                        *out = d * f32::from(byte >> (4 * half) & 15 | fifth) - m;
                    }
                }
            }
        }
    }
}

pub(crate) struct Q4K;
impl Block for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = Format::Q4_K.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        groups(bytes, None, &bytes[16..144], out);
    }
}

pub(crate) struct Q5K;
impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = Format::Q5_K.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        groups(bytes, Some(&bytes[16..48]), &bytes[48..176], out);
    }
}

pub(crate) struct Q6K;
impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = Format::Q6_K.block_bytes();
    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        let d = number(bytes, 208);
        let scale = |i: usize| d * f32::from(bytes[192 + i].cast_signed());
        for half in 0..2 {
            let low = &bytes[64 * half..][..64];
            let high = &bytes[128 + 32 * half..][..32];
            for quarter in 0..4 {
                let low = &low[32 * (quarter % 2)..][..32];
                let out = &mut out[128 * half + 32 * quarter..][..32];
                let at = 8 * half + 2 * quarter;
                let scales = (scale(at), scale(at + 1));
                for i in 0..32 {
                    let bits = low[i] >> (4 * (quarter / 2)) & 15;
                    let q = bits | (high[i] >> (2 * quarter) & 3) << 4;
                    let s = if i < 16 { scales.0 } else { scales.1 };
                    out[i] = s * (f32::from(q) - 32.0);
                }
            }
        }
    }
}
