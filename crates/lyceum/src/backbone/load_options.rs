//! The device and the precision of a base's computation.

use candle_core::Device;
pub use lyceum_kernels::gemm::Precision;

/// The device and the precision of a base's computation.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub(super) precision: Precision,
    pub(super) backend: Backend,
}

/// The backends of a decoder.
#[derive(Debug, Clone, Default)]
pub(super) enum Backend {
    /// The CPU kernels.
    #[default]
    Cpu,
    /// Candle's operations on a device.
    Candle(Device),
}

impl Backend {
    /// The backend for `device`: the kernels for the processor.
    pub(super) fn of(device: &Device) -> Self {
        match device.is_cpu() {
            true => Backend::Cpu,
            false => Backend::Candle(device.clone()),
        }
    }
}

impl LoadOptions {
    /// On `device`: the processor's kernels, or candle's operations on a GPU.
    pub fn new(precision: Precision, device: &Device) -> Self {
        let backend = Backend::of(device);
        LoadOptions { precision, backend }
    }

    /// In candle's operations on any device, the processor too: slower there, for comparisons.
    pub fn candle(precision: Precision, device: &Device) -> Self {
        let backend = Backend::Candle(device.clone());
        LoadOptions { precision, backend }
    }
}

impl From<Precision> for LoadOptions {
    /// The processor.
    fn from(precision: Precision) -> Self {
        LoadOptions {
            precision,
            backend: Backend::Cpu,
        }
    }
}
