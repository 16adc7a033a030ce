//! Data sets of a hub: `hf://datasets/owner/name[@revision][/folder, file or configuration]`.

use std::path::PathBuf;

use super::configs::{self, Held, README};
use crate::error::{Error, Result};
use crate::store::{Address, Snapshot};

/// The folder the data at `address` was fetched to, and its files in it.
///
/// # Errors
/// When there is no such data set, its README cannot be understood, or a file cannot be fetched.
pub(super) fn fetch(address: &Address) -> Result<(PathBuf, Vec<Held>)> {
    let Address::Hub {
        dataset,
        owner,
        name,
        revision,
        path,
    } = address
    else {
        return Err(Error::invalid(format!("{address} is no data set of a hub")));
    };
    let whole = Address::Hub {
        dataset: *dataset,
        owner: owner.clone(),
        name: name.clone(),
        revision: revision.clone(),
        path: String::new(),
    };
    let snapshot = Snapshot::open(&whole)?;
    let paths: Vec<&str> = snapshot.paths().collect();
    let below = |part: &&&str| {
        let rest = part.strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let within: Vec<&str> = paths.iter().filter(below).copied().collect();
    let held = match (path.as_str(), within.is_empty()) {
        // What is named is a file or a folder.
        (named, false) if !named.is_empty() => configs::files(&within, None, None)?,
        (named, _) => {
            let readme = match paths.contains(&README) {
                true => {
                    let file = snapshot.fetch([README])?.join(README);
                    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
                    Some(String::from_utf8_lossy(&bytes).into_owned())
                }
                false => None,
            };
            let config = Some(named).filter(|named| !named.is_empty());
            configs::files(&paths, readme.as_deref(), config)?
        }
    };
    if held.is_empty() {
        let why = "it holds no .jsonl or .parquet file";
        return Err(Error::format(address, why));
    }
    let folder = snapshot.fetch(held.iter().map(|(path, _)| path.as_str()))?;
    Ok((folder, held))
}
