//! Writing a library for other tools.

use std::path::Path;

use anyhow::{Result, bail};
use lyceum::library::Library;
use serde_json::json;

use super::Settings;
use crate::args::ExportTo;
use crate::out::{count, say, show};

pub(crate) fn export(uri: &str, out: &Path, to: ExportTo, settings: &Settings) -> Result<()> {
    let library = Library::open_with(uri, &settings.session)?;
    let n = library.names()?.len();
    if n == 0 {
        bail!("library {uri} holds no expert");
    }
    match to {
        ExportTo::Mttl => {
            for note in library.export_mttl(out)? {
                say(&format!("warning: {note}"));
            }
        }
        ExportTo::Peft => peft(&library, out)?,
    }
    let value = json!({ "library": uri, "experts": n, "wrote": [out] });
    show(settings.format, &value, |_| {
        format!("exported {} to {}", count(n, "expert"), out.display())
    })
}

/// One PEFT folder per expert.
fn peft(library: &Library, out: &Path) -> Result<()> {
    if out
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        bail!("{} is not empty", out.display());
    }
    for expert in library.experts()? {
        let dir = out.join(expert.card.name.as_str());
        for (file, bytes) in lyceum::peft::encode(&expert)? {
            lyceum::file::write(&dir.join(file), &bytes)?;
        }
    }
    Ok(())
}
