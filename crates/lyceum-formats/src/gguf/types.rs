//! The types of tensors.

use crate::error::{Error, Result};

/// The type of a tensor's values, by ggml's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, missing_docs, reason = "ggml's names")]
#[non_exhaustive]
pub enum GgmlType {
    F64,
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl GgmlType {
    /// Every type.
    pub const ALL: [GgmlType; 12] = [
        GgmlType::F64,
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Bf16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    /// Values and bytes of one block; a plain number is a block of one.
    pub const fn block(self) -> (usize, usize) {
        match self {
            GgmlType::F64 => (1, 8),
            GgmlType::F32 => (1, 4),
            GgmlType::F16 | GgmlType::Bf16 => (1, 2),
            GgmlType::Q4_0 => (32, 18),
            GgmlType::Q4_1 => (32, 20),
            GgmlType::Q5_0 => (32, 22),
            GgmlType::Q5_1 => (32, 24),
            GgmlType::Q8_0 => (32, 34),
            GgmlType::Q4_K => (256, 144),
            GgmlType::Q5_K => (256, 176),
            GgmlType::Q6_K => (256, 210),
        }
    }

    /// Bytes of a row of `n` values, its last block filled up; `n` is below `usize::MAX / 64`.
    pub const fn row_bytes(self, n: usize) -> usize {
        let (values, bytes) = self.block();
        n.div_ceil(values) * bytes
    }
}

/// The type that ggml numbers `id`.
pub(super) fn ggml_type(id: u32) -> Result<GgmlType> {
    Ok(match id {
        0 => GgmlType::F32,
        1 => GgmlType::F16,
        28 => GgmlType::F64,
        30 => GgmlType::Bf16,
        2 => GgmlType::Q4_0,
        3 => GgmlType::Q4_1,
        6 => GgmlType::Q5_0,
        7 => GgmlType::Q5_1,
        8 => GgmlType::Q8_0,
        12 => GgmlType::Q4_K,
        13 => GgmlType::Q5_K,
        14 => GgmlType::Q6_K,
        other => {
            let names = [
                (10, "Q2_K"),
                (11, "Q3_K"),
                (16, "IQ2_XXS"),
                (17, "IQ2_XS"),
                (18, "IQ3_XXS"),
                (19, "IQ1_S"),
                (20, "IQ4_NL"),
                (21, "IQ3_S"),
                (22, "IQ2_S"),
                (23, "IQ4_XS"),
                (24, "I8"),
                (25, "I16"),
                (26, "I32"),
                (27, "I64"),
                (29, "IQ1_M"),
                (34, "TQ1_0"),
                (35, "TQ2_0"),
                (39, "MXFP4"),
            ];
            let known = names.iter().find(|(id, _)| *id == other);
            let name = known.map_or_else(|| format!("type {other}"), |(_, name)| (*name).into());
            return Err(Error::unsupported(format!(
                "is kept as {name}, which is not supported; supported: F64, F32, F16, BF16, \
                 Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
            )));
        }
    })
}
