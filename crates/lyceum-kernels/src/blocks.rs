//! Quantised weights, a block at a time, in the layouts of ggml.
//!
//! A block holds 32 or 256 successive weights of a row as small whole numbers, with a scale (and
//! for some an offset) in f16 that turns them back into numbers. Source: ggml's block structures.

use half::f16;

use crate::format::Format;

/// The longest block.
pub(crate) const LONGEST: usize = 256;

/// Successive weights of a row taken apart: `d q - m`, with a d and an m per group.
pub(crate) struct Parts {
    pub(crate) q: [i8; LONGEST],
    pub(crate) d: [f32; GROUPS],
    pub(crate) m: [f32; GROUPS],
}

/// The most groups in as many weights as the longest block has.
const GROUPS: usize = 16;

impl Parts {
    pub(crate) const fn new() -> Self {
        Parts {
            q: [0; LONGEST],
            d: [0.0; GROUPS],
            m: [0.0; GROUPS],
        }
    }
}

/// One format's blocks.
pub(crate) trait Block {
    const LEN: usize;
    const BYTES: usize;
    /// Weights that share d and m.
    const GROUP: usize = 32;
    /// `true` if m can be anything but 0; otherwise it is not written.
    const OFFSETS: bool = true;
    /// Takes blocks apart, no more than [`LONGEST`] weights and of 256 only one: `q` is as long as
    /// they are, d and m have their groups.
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]);
}

/// The weights of one block.
#[inline(always)]
pub(crate) fn decode(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::Q4_0 => weights::<Q4_0>(bytes, out),
        Format::Q4_1 => weights::<Q4_1>(bytes, out),
        Format::Q5_0 => weights::<Q5_0>(bytes, out),
        Format::Q5_1 => weights::<Q5_1>(bytes, out),
        Format::Q8_0 => weights::<Q8_0>(bytes, out),
        Format::Q4_K => weights::<Q4K>(bytes, out),
        Format::Q5_K => weights::<Q5K>(bytes, out),
        Format::Q6_K => weights::<Q6K>(bytes, out),
    }
}

#[inline(always)]
fn weights<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let mut parts = Parts::new();
    let Parts { q, d, m } = &mut parts;
    let groups = B::LEN / B::GROUP;
    B::open(bytes, &mut q[..B::LEN], &mut d[..groups], &mut m[..groups]);
    let values = out[..B::LEN].chunks_exact_mut(B::GROUP);
    for (((out, q), d), m) in values.zip(q.chunks_exact(B::GROUP)).zip(d).zip(m) {
        for (out, q) in out.iter_mut().zip(q) {
            *out = *d * f32::from(*q) - *m;
        }
    }
}

/// The f16 at `at`, as bits.
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// A finite f16: its bits in f32's place, times 2^112 for the other bias.
#[inline(always)]
fn number(half: u16) -> f32 {
    let bits = u32::from(half);
    let size = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(239 << 23);
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// Room for opened blocks: numbers, and a scale and an offset per group.
struct Opened<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    m: &'a mut [f32],
}

/// Small blocks, of one group each: `numbers` reads one, `scales` makes d and m of the two f16
/// numbers at its start.
#[inline(always)]
fn small<B: Block>(
    bytes: &[u8],
    opened: Opened<'_>,
    numbers: impl Fn(&[u8], &mut [i8]),
    scales: impl Fn(f32, f32) -> (f32, f32),
) {
    const MOST: usize = LONGEST / 32;
    let Opened { q, d, m } = opened;
    let mut halves = [[0u16; MOST]; 2];
    let [first, second] = &mut halves;
    let blocks = bytes.chunks_exact(B::BYTES).zip(q.chunks_exact_mut(32));
    for ((block, q), (first, second)) in blocks.zip(first.iter_mut().zip(second)) {
        (*first, *second) = (half(block, 0), half(block, 2));
        numbers(block, q);
    }
    // All of them, so that it is one register's work.
    let mut both = [[0f32; MOST]; 2];
    for i in 0..MOST {
        let (d, m) = scales(number(halves[0][i]), number(halves[1][i]));
        (both[0][i], both[1][i]) = (d, m);
    }
    d.iter_mut().zip(both[0]).for_each(|(d, x)| *d = x);
    m.iter_mut().zip(both[1]).for_each(|(m, x)| *m = x);
}

/// 32 numbers from 16 bytes of nibbles, the low ones first.
#[inline(always)]
fn nibbles(bytes: &[u8], q: &mut [i8]) {
    let (low, high) = q[..32].split_at_mut(16);
    for (q, byte) in low.iter_mut().zip(&bytes[..16]) {
        *q = (byte & 15).cast_signed();
    }
    for (q, byte) in high.iter_mut().zip(&bytes[..16]) {
        *q = (byte >> 4).cast_signed();
    }
}

/// 32 five-bit numbers: nibbles as above, and a fifth bit each, eight to a byte, first numbers
/// first.
#[inline(always)]
fn fives(fifth: &[u8], bytes: &[u8], q: &mut [i8]) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let words = q.as_chunks_mut::<8>().0;
    for (i, (q, fifth)) in words.iter_mut().zip(&fifth[..4]).enumerate() {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[8 * (i % 2)..][..8]);
        let low = u64::from_le_bytes(eight) >> (4 * (i / 2)) & (15 * EACH);
        // Each byte keeps its own bit, which a carry then lifts to the top.
        let own = (u64::from(*fifth) * EACH) & 0x8040_2010_0804_0201;
        let top = (((own & (127 * EACH)) + 127 * EACH) | own) & (128 * EACH);
        *q = (low | top >> 3).to_le_bytes().map(u8::cast_signed);
    }
}

pub(crate) struct Q4_0;
impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q4_0.block_bytes();
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        let numbers = |block: &[u8], q: &mut [i8]| nibbles(&block[2..], q);
        small::<Self>(bytes, Opened { q, d, m }, numbers, |d, _| (d, 8.0 * d));
    }
}

pub(crate) struct Q4_1;
impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q4_1.block_bytes();
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        let numbers = |block: &[u8], q: &mut [i8]| nibbles(&block[4..], q);
        small::<Self>(bytes, Opened { q, d, m }, numbers, |d, m| (d, -m));
    }
}

pub(crate) struct Q5_0;
impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q5_0.block_bytes();
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        let numbers = |block: &[u8], q: &mut [i8]| fives(&block[2..], &block[6..], q);
        small::<Self>(bytes, Opened { q, d, m }, numbers, |d, _| (d, 16.0 * d));
    }
}

pub(crate) struct Q5_1;
impl Block for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q5_1.block_bytes();
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        let numbers = |block: &[u8], q: &mut [i8]| fives(&block[4..], &block[8..], q);
        small::<Self>(bytes, Opened { q, d, m }, numbers, |d, m| (d, -m));
    }
}

pub(crate) struct Q8_0;
impl Block for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = Format::Q8_0.block_bytes();
    const OFFSETS: bool = false;
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], _: &mut [f32]) {
        let numbers = |block: &[u8], q: &mut [i8]| {
            for (q, byte) in q.iter_mut().zip(&block[2..34]) {
                *q = byte.cast_signed();
            }
        };
        let m = &mut [];
        small::<Self>(bytes, Opened { q, d, m }, numbers, |d, _| (d, 0.0));
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

/// Scales and offsets of eight groups, six bits each in twelve bytes: those of the first four
/// groups in the low bits of a byte of their own, those of the others in what is left.
#[inline(always)]
fn sixes(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (scales, offsets, rest) = (word(0), word(4), word(8));
    let both = |first: u32, low: u32| {
        let second = low & 0x0f0f_0f0f | (first >> 2) & 0x3030_3030;
        (u64::from(second) << 32 | u64::from(first & 0x3f3f_3f3f)).to_le_bytes()
    };
    (both(scales, rest), both(offsets, rest >> 4))
}

/// 256 weights in eight groups of 32; `high` holds the fifth bits, one group per bit.
#[inline(always)]
fn groups(bytes: &[u8], high: Option<&[u8]>, low: &[u8], opened: Opened<'_>) {
    let Opened { q, d, m } = opened;
    let both = (number(half(bytes, 0)), number(half(bytes, 2)));
    let (scales, offsets) = sixes(&bytes[4..16]);
    let (d, m) = (&mut d[..8], &mut m[..8]);
    for i in 0..8 {
        d[i] = both.0 * f32::from(scales[i]);
        m[i] = both.1 * f32::from(offsets[i]);
    }
    for i in 0..8 {
        let low = &low[32 * (i / 2)..][..32];
        let q = &mut q[32 * i..][..32];
        match high {
            None => {
                for (q, byte) in q.iter_mut().zip(low) {
                    *q = (byte >> (4 * (i % 2)) & 15).cast_signed();
                }
            }
            Some(high) => {
                for ((q, byte), high) in q.iter_mut().zip(low).zip(&high[..32]) {
                    let fifth = (high >> i & 1) << 4;
                    *q = (byte >> (4 * (i % 2)) & 15 | fifth).cast_signed();
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
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        groups(bytes, None, &bytes[16..144], Opened { q, d, m });
    }
}

pub(crate) struct Q5K;
impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = Format::Q5_K.block_bytes();
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
        groups(
            bytes,
            Some(&bytes[16..48]),
            &bytes[48..176],
            Opened { q, d, m },
        );
    }
}

pub(crate) struct Q6K;
impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = Format::Q6_K.block_bytes();
    const GROUP: usize = 16;
    const OFFSETS: bool = false;
    #[inline(always)]
    fn open(bytes: &[u8], q: &mut [i8], d: &mut [f32], _: &mut [f32]) {
        let whole = number(half(bytes, 208));
        for (d, byte) in d[..16].iter_mut().zip(&bytes[192..208]) {
            *d = whole * f32::from(byte.cast_signed());
        }
        for eighth in 0..8 {
            let (half, quarter) = (eighth / 4, eighth % 4);
            let low = &bytes[64 * half + 32 * (quarter % 2)..][..32];
            let high = &bytes[128 + 32 * half..][..32];
            let q = &mut q[32 * eighth..][..32];
            for ((q, low), high) in q.iter_mut().zip(low).zip(high) {
                let bits = low >> (4 * (quarter / 2)) & 15;
                let bits = bits | (high >> (2 * quarter) & 3) << 4;
                *q = bits.cast_signed() - 32;
            }
        }
    }
}
