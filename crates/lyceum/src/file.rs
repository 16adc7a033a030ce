//! Writing files so that a reader sees the old bytes or the new ones, never half.

use std::io::Write;
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

/// Makes the folder `dir` if there is none, and a file in it for a moment: whether it can be written
/// is known before anything long begins.
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
