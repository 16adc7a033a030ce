//! Files of `torch.save`, read without executing anything and written so that torch opens them.
//!
//! A saved file is a pickle, which elsewhere is a program. Here it is data: see `pickle/`.
//! Memory stays within a small multiple of the file's size whatever the file claims.

mod legacy;
mod pickle;
mod tensor;
mod value;
mod write;
mod zip;

use std::borrow::Cow;

pub use tensor::{Data, Dtype, Stored};
pub use value::Value;
pub use write::save;

use crate::error::Result;

/// Reads what `torch.save` wrote, in the zip form or the one before it.
///
/// # Errors
/// [`Error::Malformed`] for anything that is not tensors and plain values, naming what it is.
///
/// [`Error::Malformed`]: crate::Error::Malformed
pub fn load(bytes: &[u8]) -> Result<Value<'_>> {
    if bytes.starts_with(zip::MAGIC) {
        zipped(bytes)
    } else if bytes.starts_with(legacy::MAGIC) {
        legacy::read(bytes)
    } else {
        Err("it is not a file of `torch.save`".into())
    }
}

fn zipped(bytes: &[u8]) -> Result<Value<'_>> {
    let entries = zip::read(bytes)?;
    let roots: Vec<&str> = entries
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .filter(|root| !root.contains('/'))
        .collect();
    let [root] = roots[..] else {
        return Err("the zip container does not hold one `data.pkl`".into());
    };
    let entry = |name: &str| entries.get(format!("{root}/{name}").as_str()).copied();
    if entry("byteorder").is_some_and(|order| order != b"little") {
        return Err("its numbers are big-endian".into());
    }
    let program = entry("data.pkl").unwrap_or_default();
    let storages = |key: &str, _: usize, _: usize| {
        entry(&format!("data/{key}")).map(|raw| Data::Raw(Cow::Borrowed(raw)))
    };
    let (value, len) = pickle::read(program, bytes.len(), &storages)?;
    if len != program.len() {
        return Err("something follows its pickle".into());
    }
    Ok(value)
}

/// The tensors of a saved dictionary (a state dict) as they lie in the file, by name.
///
/// # Errors
/// As [`load`], and for a file that holds anything else, naming the entry.
pub fn stored(bytes: &[u8]) -> Result<Vec<(String, Stored<'_>)>> {
    let Value::Dict(pairs) = load(bytes)? else {
        return Err("it holds no dictionary of tensors".into());
    };
    let entry = |(key, value)| match (key, value) {
        (Value::Text(name), Value::Tensor(stored)) => Ok((name.into_owned(), *stored)),
        (key, _) => Err(format!("entry {key:?} is not a tensor under a name").into()),
    };
    pairs.into_iter().map(entry).collect()
}
