//! Writing a library for other tools.

use std::path::Path;

use anyhow::{Result, bail};
use lyceum::library::Library;
use lyceum::store::Session;

use super::done;
use crate::args::FormatArg;
use crate::out::say;

pub(crate) fn export(uri: &str, out: &Path, to: FormatArg, session: &Session) -> Result<()> {
    let library = Library::open_with(uri, session)?;
    let n = library.names()?.len();
    if n == 0 {
        bail!("library {uri} holds no expert");
    }
    match to {
        FormatArg::Mttl => {
            for note in library.export_mttl(out)? {
                say(&format!("warning: {note}"));
            }
        }
        FormatArg::Peft => peft(&library, out)?,
        FormatArg::Text | FormatArg::Json => {
            bail!("say what to write: --format mttl or --format peft")
        }
    }
    done(
        to.printed(),
        &format!("exported {n} experts to {}", out.display()),
    )
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
