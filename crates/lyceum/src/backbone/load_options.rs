//! The device and the precision of a base's computation.

use candle_core::Device;
use serde::{Deserialize, Serialize};

/// Storage and arithmetic of the frozen matrices. Everything else is f32. Matrices that are
/// quantised on disk stay as they are; products of many rows round by this setting all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Weights and products in f32.
    #[default]
    F32,
    /// Weights and the inputs of products rounded to bf16, those of attention where that is faster,
    /// and so keys and values that are kept; sums in f32.
    Bf16,
    /// Weights rounded to eight bits, each 32 along a row to a scale of their own; products in
    /// f32.
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        })
    }
}

/// The device and the precision of a base's computation.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub(super) precision: Precision,
    /// The device on which candle's operations compute; `None` for the CPU kernels.
    pub(super) device: Option<Device>,
}

impl LoadOptions {
    /// On `device`: the processor's kernels, or candle's operations on a GPU.
    pub fn new(precision: Precision, device: &Device) -> Self {
        let device = Some(device.clone()).filter(|device| !device.is_cpu());
        LoadOptions { precision, device }
    }

    /// In candle's operations on any device, the processor too: slower there, for comparisons.
    pub fn candle(precision: Precision, device: &Device) -> Self {
        let device = Some(device.clone());
        LoadOptions { precision, device }
    }
}

impl From<Precision> for LoadOptions {
    /// The processor.
    fn from(precision: Precision) -> Self {
        LoadOptions {
            precision,
            device: None,
        }
    }
}
