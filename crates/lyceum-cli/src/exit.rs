//! Exit codes, by what a script can do about a failure.

use std::io;

use lyceum::{ErrorKind, RemoteErrorKind};

use crate::out::NotClean;

/// It ran and found something wrong.
pub(crate) const NOT_CLEAN: u8 = 1;
/// It cannot be done as it was asked for.
pub(crate) const USAGE: u8 = 2;
/// A file, library, expert or artifact is not there.
pub(crate) const NOT_FOUND: u8 = 3;
/// A name is taken, or another writer was first.
pub(crate) const CONFLICT: u8 = 4;
/// A file, disk or network failed, or a file is damaged.
pub(crate) const INPUT_OUTPUT: u8 = 5;
/// Asked to stop (Ctrl-C).
pub(crate) const STOPPED: u8 = 130;

/// The section of `lyceum --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    it ran and found something wrong (check, import)
  2    usage: it cannot be done as asked for
  3    not found: a file, library, expert or artifact
  4    conflict: the name is taken, or another writer was first
  5    input or output failed: disk, network, damaged file
  130  interrupted (Ctrl-C); what is kept is said";

/// Returns the exit code for `error`.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<NotClean>() {
        return NOT_CLEAN;
    }
    let known = error.chain().find_map(|cause| {
        let ours = cause.downcast_ref::<lyceum::Error>().map(of);
        ours.or_else(|| cause.downcast_ref::<io::Error>().map(of_io))
    });
    known.unwrap_or(USAGE)
}

fn of(error: &lyceum::Error) -> u8 {
    // Names of Lyceum's own things are misspelt, not missing.
    if let lyceum::Error::NotFound {
        kind: "merge" | "router" | "transform",
        ..
    } = error.root()
    {
        return USAGE;
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Underived => NOT_FOUND,
        ErrorKind::Exists | ErrorKind::Conflict => CONFLICT,
        ErrorKind::Io | ErrorKind::Remote | ErrorKind::Format => match error.root() {
            lyceum::Error::Io { source, .. } => of_io(source),
            lyceum::Error::Remote {
                kind: RemoteErrorKind::Missing | RemoteErrorKind::Offline,
                ..
            } => NOT_FOUND,
            _ => INPUT_OUTPUT,
        },
        ErrorKind::Stopped => STOPPED,
        _ => USAGE,
    }
}

fn of_io(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        io::ErrorKind::AlreadyExists => CONFLICT,
        _ => INPUT_OUTPUT,
    }
}
