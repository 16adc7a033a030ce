//! Writing files so that a reader sees the old bytes or the new ones, never half.

use std::io::{Read, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `bytes` to `path` atomically: a temporary file beside it, then a rename.
///
/// # Errors
/// [`Error::Io`] when the system says no; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let io = |e| Error::Io {
        path: path.to_owned(),
        source: e,
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    // As any new file: what the process's umask leaves, not the private mode of temporary ones.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(dir).map_err(io)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// Makes the folder `dir` if there is none, and a file in it for a moment: whether it can be
/// written is known before anything long begins.
///
/// # Errors
/// [`Error::Io`] when the system says no.
pub fn probe(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let mut builder = tempfile::Builder::new();
    let mut file = builder
        .prefix(".tmp-")
        .tempfile_in(dir)
        .map_err(|e| Error::io(dir, e))?;
    let written = file.write_all(b"probe");
    written.map_err(|e| Error::io(dir, e))
}

/// The error about the file `what` that a reader of its format met.
pub(crate) fn unread(what: impl std::fmt::Display, error: lyceum_formats::Error) -> Error {
    match error {
        lyceum_formats::Error::Io(error) => Error::io(what.to_string(), error),
        other => Error::format(what, other),
    }
}

/// Recognises bytes that stand in for a file of data: a pointer of Git LFS or git-annex, a web page,
/// or nothing; the text says what to do.
pub fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let starts = |with: &str| {
        let first = start.get(..with.len());
        first.is_some_and(|first| first.eq_ignore_ascii_case(with.as_bytes()))
    };
    if bytes.is_empty() {
        return Some("it is empty: it was not written or downloaded whole");
    }
    if starts("version https://git-lfs.github.com/spec/") {
        return Some(
            "it is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder, or \
             download the file",
        );
    }
    if starts("/annex/objects/") {
        return Some("it is a pointer of git-annex, not the file itself: run `git annex get`");
    }
    let page = starts("<!doctype html") || starts("<html");
    page.then_some("it is a web page, not the file itself: download the file again")
}

/// Why the bytes of a file called `what` cannot be what was asked for, whatever that is: nothing,
/// a pointer of Git LFS, a web page.
///
/// # Errors
/// [`Error::Format`] saying which.
pub fn check(what: &str, bytes: &[u8]) -> Result<()> {
    match stand_in(bytes) {
        Some(why) => Err(Error::format(what, why)),
        None => Ok(()),
    }
}

/// Applies [`check`] to the first 512 bytes of the file at `path`; a missing file passes.
///
/// # Errors
/// As [`check`], or when it cannot be read.
pub fn check_start(path: &Path) -> Result<()> {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(512).read_to_end(&mut start));
    match read {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path, e)),
        Ok(_) => check(&path.display().to_string(), &start),
    }
}

/// The JSON of a file called `what`; a byte order mark before it is taken off.
///
/// # Errors
/// [`Error::Format`] with the place where it stops being JSON.
pub fn json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    check(what, bytes)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(text).map_err(|e| {
        let at = format!("line {}, column {}", e.line(), e.column());
        let why = match e.classify() {
            serde_json::error::Category::Eof => format!("ends in the middle ({at})"),
            serde_json::error::Category::Data => format!("is not of the expected form ({at})"),
            _ => format!("is not JSON ({at})"),
        };
        Error::format(what, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_for_a_file_is_told() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        assert!(stand_in(pointer).unwrap().contains("git lfs pull"));
        assert!(
            stand_in(b"/annex/objects/MD5-x\n")
                .unwrap()
                .contains("annex")
        );
        assert!(
            stand_in(b"<!DOCTYPE HTML><p>")
                .unwrap()
                .contains("web page")
        );
        assert!(stand_in(b"").unwrap().contains("empty"));
        assert_eq!(stand_in(b"version 1"), None);
        assert_eq!(stand_in(b"{}"), None);
    }
}
