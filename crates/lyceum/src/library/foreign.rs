//! Experts that other tools keep: a library of MTTL's, a PEFT adapter, a folder of adapters.

use std::path::{Path, PathBuf};

use super::{Access, Library};
use crate::error::{Error, Result};
use crate::expert::Host;
use crate::mttl::{self, Contents};
use crate::name::Name;
use crate::peft;
use crate::store::{Memory, Wanted, fetched};

/// What another tool keeps at `source`: a folder, or a repository of a hub. With `host` adapters
/// are checked against that base.
///
/// # Errors
/// When there is nothing of the kind, or any of it cannot be read.
pub fn contents(source: &Path, host: Option<&Host>) -> Result<Contents> {
    let folder = fetched(source, Wanted::Experts)?;
    if mttl::is_library(&folder) {
        return mttl::read(&folder);
    }
    let adapters = peft::find(&folder)?;
    if adapters.is_empty() {
        return Err(Error::invalid(format!(
            "{} is neither a library of MTTL's (`.meta` files) nor a PEFT adapter \
             (adapter_config.json) nor a folder of adapters",
            source.display()
        )));
    }
    let import = |(name, dir): &(Name, PathBuf)| peft::import(dir, name, host);
    Ok(Contents {
        experts: adapters.iter().map(import).collect::<Result<_>>()?,
        ..Contents::default()
    })
}

/// The experts another tool keeps at `uri` as a library for reading, held in this process's
/// memory; `None` when there is nothing of the kind. What MTTL marks as deleted is not in it.
///
/// # Errors
/// When there is but it cannot be read whole.
pub(super) fn open(uri: &str) -> Result<Option<Library>> {
    let path = Path::new(uri.strip_prefix("local://").unwrap_or(uri));
    let local = !uri.contains("://") || uri.starts_with("local://");
    let here = local && (mttl::is_library(path) || path.join(peft::CONFIG).is_file());
    if !here && !uri.starts_with("hf://") {
        return Ok(None);
    }
    let contents = contents(path, None)?;
    let store = Memory::private(uri);
    let library = Library::within(store.clone())?;
    contents.add_to(&library)?;
    Library::within_reach(store, Access::Foreign).map(Some)
}
