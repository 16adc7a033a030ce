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

/// Recognises bytes that stand in for a file of data: a pointer of git-LFS or git-annex, a web page,
/// or nothing; the text says what to do.
pub fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    let starts = |with: &str| {
        let first = bytes.get(..with.len());
        first.is_some_and(|first| first.eq_ignore_ascii_case(with.as_bytes()))
    };
    if bytes.is_empty() {
        return Some("it is empty: it was not written or downloaded whole");
    }
    if starts("version https://git-lfs.github.com/spec/") {
        return Some(
            "it is a pointer of git-LFS, not the file itself: run `git lfs pull` in its folder, or \
             download the file",
        );
    }
    if starts("/annex/objects/") {
        return Some("it is a pointer of git-annex, not the file itself: run `git annex get`");
    }
    let page = starts("<!doctype html") || starts("<html");
    page.then_some("it is a web page, not the file itself: download the file again")
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
