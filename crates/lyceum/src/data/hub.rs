//! Data sets of a hub: `hf://datasets/owner/name[@revision][/folder, file or configuration]`.

use std::path::PathBuf;

use super::layout::{Layout, Listing};
use crate::error::{Error, Result};
use crate::store::{Address, Session, Snapshot};

/// The folder the data at `address` was fetched to, and its files in it.
///
/// # Errors
/// When there is no such data set, its README cannot be understood, or a file cannot be fetched.
pub(super) fn fetch(address: &Address, session: &Session) -> Result<(PathBuf, Layout)> {
    let Address::Hub {
        dataset,
        owner,
        name,
        revision,
        path,
    } = address
    else {
        return Err(Error::invalid(format!(
            "{address} is not a data set on a hub"
        )));
    };
    let whole = Address::Hub {
        dataset: *dataset,
        owner: owner.clone(),
        name: name.clone(),
        revision: revision.clone(),
        path: String::new(),
    };
    let snapshot = Snapshot::open(&whole, session)?;
    let paths: Vec<&str> = snapshot.paths().collect();
    let read = |path: &str| {
        let file = snapshot.fetch([path])?.join(path);
        std::fs::read(&file).map_err(|e| Error::io(&file, e))
    };
    let below = |held: &&str| {
        let rest = held.strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let place = Listing { read: &read, paths };
    let layout = match path.as_str() {
        // What is named is a file or a folder.
        named if named.is_empty() || place.paths.iter().any(below) => place.layout(named, None)?,
        named => place.layout("", Some(named))?,
    };
    if layout.held.is_empty() {
        return Err(layout.empty(&address.to_string()));
    }
    let folder = snapshot.fetch(layout.held.iter().map(|(path, _)| path.as_str()))?;
    Ok((folder, layout))
}
