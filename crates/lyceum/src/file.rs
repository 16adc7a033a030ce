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

/// What a file of Git LFS begins with when its content was not fetched.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Why the bytes of a file called `what` cannot be what was asked for, whatever that is: nothing,
/// a pointer of Git LFS, a web page.
///
/// # Errors
/// [`Error::Format`] saying which.
pub fn check(what: &str, bytes: &[u8]) -> Result<()> {
    let start = bytes.trim_ascii_start();
    let page = |begin: &[u8]| {
        let start = start.get(..begin.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(begin))
    };
    let why = if bytes.is_empty() {
        "is empty: it was not downloaded, or writing it failed"
    } else if bytes.starts_with(POINTER) {
        "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
    } else if page(b"<!doctype html") || page(b"<html") {
        "is a web page, not the file itself: download it again, by its own address"
    } else {
        return Ok(());
    };
    Err(Error::format(what, why))
}

/// The same of a file that may not be there, by its first bytes.
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
            serde_json::error::Category::Data => format!("is not what it should hold ({at})"),
            _ => format!("is not JSON ({at})"),
        };
        Error::format(what, why)
    })
}
