//! The form of `torch.save` before the zip (torch below 1.6): five pickles, then the storages.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use super::pickle::{self, Storages};
use super::tensor::Data;
use super::value::Value;
use crate::error::Result;

/// The pickled magic number, which is longer than any other integer a file holds.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Reads such a file. The storages come after the pickle that says what they are, so that pickle
/// is read twice: once for their sizes, over bytes that stand in, and once over the real ones.
pub(super) fn read(bytes: &[u8]) -> Result<Value<'_>> {
    let mut at = MAGIC.len();
    let none = |_: &str, _: usize, _: usize| None;
    if next(bytes, &mut at, 0, &none)? != Value::Int(1001) {
        return Err("an old form of `torch.save` with another version than 1001".into());
    }
    let system = next(bytes, &mut at, 0, &none)?;
    if system.get("little_endian") != Some(&Value::Bool(true)) {
        return Err("its numbers are big-endian".into());
    }
    let claims = RefCell::new(BTreeMap::new());
    let stand_in = |key: &str, numel: usize, size: usize| {
        claims.borrow_mut().insert(key.to_owned(), (numel, size));
        bytes
            .get(..numel.checked_mul(size)?)
            .map(|raw| Data::Raw(Cow::Borrowed(raw)))
    };
    let mut object = at;
    next(bytes, &mut at, bytes.len(), &stand_in)?;
    let Value::List(keys) = next(bytes, &mut at, 0, &none)? else {
        return Err("its list of storages is missing".into());
    };
    let mut found = BTreeMap::new();
    for key in &keys {
        let key = key.text().ok_or("a storage without a name")?;
        let claimed = claims.borrow().get(key).copied();
        let (numel, size) = claimed.ok_or_else(|| format!("no tensor uses storage `{key}`"))?;
        let cut = || format!("storage `{key}` is cut off");
        let count = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .ok_or_else(cut)?;
        if i64::from_le_bytes(*count) != i64::try_from(numel).unwrap_or(-1) {
            return Err(format!("storage `{key}` is not of the size its tensor says").into());
        }
        let end = numel
            .checked_mul(size)
            .and_then(|len| len.checked_add(at + 8));
        let raw = end.and_then(|end| bytes.get(at + 8..end)).ok_or_else(cut)?;
        at += 8 + raw.len();
        if found.insert(key.to_owned(), raw).is_some() {
            return Err(format!("two storages are called `{key}`").into());
        }
    }
    if at != bytes.len() {
        return Err("something follows its storages".into());
    }
    let real = move |key: &str, _: usize, _: usize| {
        found.get(key).map(|raw| Data::Raw(Cow::Borrowed(*raw)))
    };
    next(bytes, &mut object, bytes.len(), &real)
}

fn next<'a>(
    bytes: &'a [u8],
    at: &mut usize,
    numbers: usize,
    storages: &Storages<'_, 'a>,
) -> Result<Value<'a>> {
    let (value, len) = pickle::read(bytes.get(*at..).unwrap_or_default(), numbers, storages)?;
    *at += len;
    Ok(value)
}
