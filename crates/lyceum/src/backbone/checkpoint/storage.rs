//! Storage types of tensors in files, and the order of their rows.

use half::{bf16, f16};
use lyceum_kernels::quantised::Format;

/// Storage types of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backbone) enum StorageType {
    F64,
    F32,
    F16,
    Bf16,
    /// Eight bits: a sign, four of the exponent, three of the fraction; no infinities.
    F8E4M3,
    /// Eight bits: the upper half of an f16.
    F8E5M2,
    /// Quantised blocks along the rows, of which each is a whole number.
    Blocks(Format),
}

impl StorageType {
    /// Bytes of `n` successive values of a row.
    pub(in crate::backbone) fn bytes(self, n: usize) -> usize {
        match self {
            StorageType::F64 => 8 * n,
            StorageType::F32 => 4 * n,
            StorageType::F8E4M3 | StorageType::F8E5M2 => n,
            StorageType::F16 | StorageType::Bf16 => 2 * n,
            StorageType::Blocks(format) => format.row_bytes(n),
        }
    }

    /// The values of `bytes`, put at the start of `out`.
    pub(super) fn convert<'a>(self, bytes: &[u8], out: &'a mut [f32]) -> &'a [f32] {
        fn put<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) -> usize {
            let parts = bytes.as_chunks::<N>().0;
            let both = out.iter_mut().zip(parts);
            both.for_each(|(out, part)| *out = value(*part));
            parts.len()
        }
        let n = match self {
            StorageType::F64 => put(bytes, out, |b| f64::from_le_bytes(b) as f32),
            StorageType::F32 => put(bytes, out, f32::from_le_bytes),
            StorageType::F8E4M3 => put(bytes, out, |[b]| e4m3(b)),
            StorageType::F8E5M2 => {
                put(bytes, out, |[b]| f16::from_bits(u16::from(b) << 8).to_f32())
            }
            StorageType::F16 => put(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            StorageType::Bf16 => put(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            StorageType::Blocks(format) => {
                let n = bytes.len() / format.block_bytes() * format.block();
                format.decode(bytes, &mut out[..n]);
                n
            }
        };
        &out[..n]
    }
}

/// The value of eight bits: 1 of sign, 4 of exponent (bias 7), 3 of fraction; all ones is no
/// number.
fn e4m3(bits: u8) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 8.0 * 2f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits < 128 { size } else { -size }
}

/// Order of a matrix's rows, or a vector's values, in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backbone) enum RowOrder {
    /// In their order.
    Plain,
    /// The two halves of each of so many heads interleaved: 0, n/2, 1, n/2 + 1, ...
    Pairs(usize),
    /// Those of q, k and v of each of so many heads apart: all of q, all of k, all of v.
    Parts(usize),
}

impl RowOrder {
    /// The position in the file of row `row` of `n`.
    pub(super) fn place(self, row: usize, n: usize) -> usize {
        match self {
            RowOrder::Plain => row,
            RowOrder::Pairs(heads) => {
                let dim = n / heads;
                let (head, at) = (row / dim, row % dim);
                let (half, pair) = (at / (dim / 2), at % (dim / 2));
                head * dim + 2 * pair + half
            }
            RowOrder::Parts(heads) => {
                let dim = n / (3 * heads);
                let (head, part, at) = (row / (3 * dim), row / dim % 3, row % dim);
                (part * heads + head) * dim + at
            }
        }
    }

    /// Returns `true` if `n` rows can be stored in this order.
    pub(super) fn fits(self, n: usize) -> bool {
        match self {
            RowOrder::Plain => true,
            RowOrder::Pairs(heads) => heads > 0 && n.is_multiple_of(2 * heads),
            RowOrder::Parts(heads) => heads > 0 && n.is_multiple_of(3 * heads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_the_file_keeps_them() {
        let order = |order: RowOrder, n| (0..n).map(|row| order.place(row, n)).collect::<Vec<_>>();
        assert_eq!(order(RowOrder::Pairs(2), 8), [0, 2, 1, 3, 4, 6, 5, 7]);
        // Two heads of one value: q0 k0 v0 q1 k1 v1 from q0 q1 k0 k1 v0 v1.
        assert_eq!(order(RowOrder::Parts(2), 6), [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn eight_bits_mean_what_they_mean_to_torch() {
        // What torch gives for these bytes as float8_e4m3fn and as float8_e5m2.
        let four = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x38, 1.0),
            (0xb8, -1.0),
            (0x7e, 448.0),
        ];
        for (bits, value) in four {
            assert_eq!(e4m3(bits), value, "{bits:x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let mut out = [0.0; 4];
        let five = StorageType::F8E5M2.convert(&[0x3c, 0xbc, 0x7b, 0x01], &mut out);
        assert_eq!(five, [1.0, -1.0, 57344.0, 2f32.powi(-16)]);
    }
}
