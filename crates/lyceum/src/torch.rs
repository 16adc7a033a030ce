//! Files of `torch.save`, as [`lyceum_formats`] reads them, and their tensors.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use lyceum_formats::torch;
pub(crate) use lyceum_formats::torch::{Dtype, Stored, Value};

use crate::error::{Error, Result};
use crate::file::unread;

/// Reads what `torch.save` wrote; `what` names the file in errors.
///
/// # Errors
/// [`Error::Format`] for anything that is not tensors and plain values, naming what it is.
pub(crate) fn load<'a>(bytes: &'a [u8], what: &str) -> Result<Value<'a>> {
    torch::load(bytes).map_err(|error| unread(what, error))
}

/// The file that `torch.load` reads as `value`; equal values give equal bytes.
///
/// # Errors
/// [`Error::Invalid`] when it would be larger than 4 GiB.
pub(crate) fn save(value: &Value<'_>) -> Result<Vec<u8>> {
    torch::save(value).map_err(|error| Error::invalid(error.to_string()))
}

/// The tensors of a saved dictionary (a state dict) as they lie in the file, by name.
///
/// # Errors
/// [`Error::Format`] for a file that holds anything else, naming the entry.
pub(crate) fn stored<'a>(bytes: &'a [u8], what: &str) -> Result<Vec<(String, Stored<'a>)>> {
    torch::stored(bytes).map_err(|error| unread(what, error))
}

/// The tensors of a saved dictionary (a state dict) in f32, by name.
///
/// # Errors
/// As [`stored`].
pub(crate) fn tensors(bytes: &[u8], what: &str) -> Result<BTreeMap<String, Tensor>> {
    let made = |(name, stored): (String, Stored<'_>)| match tensor(&stored) {
        Ok(tensor) => Ok((name, tensor)),
        Err(e) => Err(Error::format(what, format!("`{name}`: {e}"))),
    };
    stored(bytes, what)?.into_iter().map(made).collect()
}

/// `stored` in f32. f64 is rounded.
///
/// # Errors
/// [`Error::Invalid`] for integers that f32 does not hold exactly.
pub(crate) fn tensor(stored: &Stored<'_>) -> Result<Tensor> {
    let values = stored.to_f32().map_err(|e| Error::invalid(e.to_string()))?;
    Ok(Tensor::from_vec(values, stored.shape(), &Device::Cpu)?)
}
