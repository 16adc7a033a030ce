//! The device and the precision of a base's computation.

use candle_core::Device;
pub use lyceum_kernels::gemm::Precision;

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
