//! Devices that compute tensors, by name.

use candle_core::{Device, DeviceLocation};

use crate::error::{Context, Error, Hint, Result};

/// The device called `cpu`, `cuda` (the first GPU), `cuda:N` or `metal`.
///
/// ```
/// use lyceum::device::device;
///
/// assert!(device("cpu")?.is_cpu());
/// assert!(device("gpu").is_err());
/// # Ok::<(), lyceum::Error>(())
/// ```
///
/// # Errors
/// When there is no such device, or this build cannot use it.
pub fn device(name: &str) -> Result<Device> {
    let no_gpu = || format!("no GPU for `{name}`");
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "metal" if candle_core::utils::metal_is_available() => {
            return Device::new_metal(0).context(no_gpu);
        }
        "metal" => return Err(without("Metal", "metal")),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    let Some(number) = number else {
        return Err(Error::invalid(format!(
            "no device is called `{name}`; there are cpu, cuda, cuda:N and metal"
        )));
    };
    if !candle_core::utils::cuda_is_available() {
        return Err(without("CUDA", "cuda"));
    }
    Device::new_cuda(number).context(no_gpu)
}

fn without(what: &str, feature: &str) -> Error {
    Error::invalid(format!(
        "this build of Lyceum has no {what}; build it with the feature `{feature}`"
    ))
    .hint(Hint::Set {
        option: "device",
        value: "cpu",
    })
}

/// The name of a device, in the form that [`device()`] parses.
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { .. } => "metal".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_nothing_are_refused() {
        assert!(device("cpu").unwrap().is_cpu());
        for name in ["gpu", "cuda:", "cuda:x", ""] {
            let error = device(name).unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
        #[cfg(not(any(feature = "cuda", feature = "metal")))]
        for gpu in ["cuda:1", "metal"] {
            let error = device(gpu).unwrap_err().to_string();
            assert!(error.contains("the feature `"), "{error}");
        }
        assert_eq!(name(&Device::Cpu), "cpu");
    }
}
