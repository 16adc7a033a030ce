//! CPU feature detection, done once.

use std::sync::OnceLock;

/// The registers the packed products are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Eight lanes of plain Rust, which the compiler maps to what there is (SSE2, NEON).
    Portable,
    /// 256-bit registers with fused multiply-add.
    Avx2,
    /// 512-bit registers.
    Avx512,
    /// 512-bit registers, and products of pairs of bf16.
    Avx512Bf16,
    /// 512-bit registers, products of pairs of bf16, and products of bf16 tiles.
    Amx,
}

impl Level {
    /// The widest level this processor has. A level other than the portable one is used only if
    /// it multiplies a small matrix as the portable one does, tried once.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            levels()
                .filter(|level| crate::gemm::agrees(*level))
                .max()
                .unwrap_or(Level::Portable)
        })
    }

    /// Returns `true` if the CPU has the level's instructions.
    pub fn exists(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && Level::Avx2.exists()
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Level::Avx512.exists(),
            #[cfg(target_arch = "x86_64")]
            Level::Amx => Level::Avx512Bf16.exists() && crate::amx::allowed(),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx => false,
        }
    }

    /// Returns `true` if products are faster with factors in bf16, even if they must be rounded
    /// first.
    pub(crate) fn pairs(self) -> bool {
        self == Level::Avx512Bf16
    }

    /// Values per register.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Level::Portable | Level::Avx2 => 8,
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx => 16,
        }
    }
}

/// Every level this processor has, for tests and benchmarks.
pub fn levels() -> impl Iterator<Item = Level> {
    [
        Level::Portable,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Bf16,
        Level::Amx,
    ]
    .into_iter()
    .filter(|level| level.exists())
}
