//! Where tensors are computed, by name.

use candle_core::Device;

use crate::error::{Context, Error, Result};

/// The device called `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// When there is no such device, or this build cannot use it.
pub fn device(name: &str) -> Result<Device> {
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    let Some(number) = number else {
        return Err(Error::invalid(format!(
            "no device is called `{name}`; there are cpu, cuda and cuda:N"
        )));
    };
    if !candle_core::utils::cuda_is_available() {
        return Err(Error::invalid(
            "this lyceum was built without CUDA; build it with `--features cuda`, or use --device cpu",
        ));
    }
    Device::new_cuda(number).context(|| format!("no GPU for `{name}`"))
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
        #[cfg(not(feature = "cuda"))]
        assert!(
            device("cuda:1")
                .unwrap_err()
                .to_string()
                .contains("--features cuda")
        );
    }
}
