//! Opening everything a library holds and saying what is wrong.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use lyceum::Error;
use lyceum::check::{self, Findings};
use lyceum::library::Library;
use lyceum::store::{Session, Wanted, fetched_with};

use super::{Settings, model};
use crate::args::BaseArgs;
use crate::hint;
use crate::out::{NotClean, show, size};

pub(crate) fn check(uri: &str, base: &BaseArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let cpu = settings.on(Device::Cpu);
    let base = base.base.as_ref().map(|_| model::base(base, &cpu));
    let base = base.transpose()?;
    let host = base.map(|base| base.host());
    let checked =
        Library::open_with(uri, session).and_then(|library| check::check(&library, host.as_ref()));
    let found = match checked {
        Ok(found) => found,
        Err(error) => match unreadable(uri, session)? {
            Some(found) => found,
            None if damaged(&error) => Findings {
                problems: vec![error.chain()],
                ..Findings::default()
            },
            None => return Err(error.into()),
        },
    };
    show(format, &found, |found| {
        let mut text = String::new();
        for problem in &found.problems {
            text += &format!("wrong: {problem}\n");
        }
        for warning in &found.warnings {
            text += &format!("warning: {warning}\n");
        }
        for hint in &found.hints {
            text += &format!("hint: {}\n", hint::words(hint));
        }
        if let (Some(objects), Some(bytes)) = (found.objects, found.bytes) {
            text += &format!(
                "version {}: {objects} objects of {} read from the place itself\n",
                found.version,
                size(bytes)
            );
        }
        text += &format!(
            "{} experts and {} artifacts read, {} problems, {} warnings\n",
            found.experts.len(),
            found.artifacts,
            found.problems.len(),
            found.warnings.len()
        );
        text
    })?;
    match found.problems.is_empty() {
        true => Ok(()),
        false => Err(NotClean.into()),
    }
}

/// Returns `true` for a file that is missing or malformed, so that nothing that depends on it can
/// be checked.
fn damaged(error: &Error) -> bool {
    match error {
        Error::Format { .. } | Error::NotFound { kind: "file", .. } => true,
        Error::At { source, .. } => match &**source {
            Error::Io { .. } | Error::Remote { .. } => false,
            Error::Invalid(_) | Error::Mismatch(_) => true,
            other => damaged(other),
        },
        _ => false,
    }
}

/// Everything wrong with a folder of MTTL's that cannot be opened whole.
fn unreadable(uri: &str, session: &Session) -> Result<Option<Findings>> {
    let path = Path::new(uri.strip_prefix("local://").unwrap_or(uri));
    let Ok(dir) = fetched_with(path, Wanted::Experts, session) else {
        return Ok(None);
    };
    if dir.join("library.json").exists() || !lyceum::mttl::is_library(&dir) {
        return Ok(None);
    }
    let (contents, errors) = lyceum::mttl::scan(&dir)?;
    if errors.is_empty() {
        return Ok(None);
    }
    let weigh = |expert| check::weigh(expert, None);
    Ok(Some(Findings {
        experts: contents
            .experts
            .iter()
            .map(weigh)
            .collect::<Result<_, _>>()?,
        artifacts: contents.artifacts.len(),
        problems: errors.iter().map(Error::chain).collect(),
        warnings: contents.notes,
        ..Findings::default()
    }))
}
