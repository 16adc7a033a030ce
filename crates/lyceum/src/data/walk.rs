//! The files below a folder of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::format;
use crate::error::{Error, Result};

/// The files below `root`, by their paths from there with `/` between the parts, hidden ones left
/// out. Links are followed, but no folder is read twice, so that a circle of them ends.
///
/// # Errors
/// When a folder cannot be listed.
pub(super) fn files(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut walk = Walk::default();
    walk.folder(root, "")?;
    // What links lead to comes last: a folder is read under its own name where it has one.
    while let Some((below, link)) = walk.links.pop_first() {
        walk.folder(&link, &below)?;
    }
    Ok(walk.files)
}

#[derive(Debug, Default)]
struct Walk {
    files: BTreeMap<String, PathBuf>,
    links: BTreeMap<String, PathBuf>,
    seen: BTreeSet<PathBuf>,
}

impl Walk {
    fn folder(&mut self, folder: &Path, below: &str) -> Result<()> {
        let mut open = vec![(folder.to_owned(), below.to_owned())];
        while let Some((folder, below)) = open.pop() {
            let io = |e| Error::io(&folder, e);
            if !self.seen.insert(folder.canonicalize().map_err(io)?) {
                continue;
            }
            for entry in std::fs::read_dir(&folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if format::hidden(&name) {
                    continue;
                }
                let path = entry.path();
                let below = match below.as_str() {
                    "" => name,
                    below => format!("{below}/{name}"),
                };
                let kind = entry.file_type().map_err(io)?;
                match std::fs::metadata(&path) {
                    Ok(to) if to.is_dir() && kind.is_symlink() => {
                        self.links.insert(below, path);
                    }
                    Ok(to) if to.is_dir() => open.push((path, below)),
                    // Reading a pipe or a device would wait for ever.
                    Ok(to) if !to.is_file() => {}
                    // A link that leads nowhere is an error when it is to be read.
                    _ => {
                        self.files.insert(below, path);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["root/b/c", "root/.git", "out"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in [
            "root/a.jsonl",
            "root/b/c/d.jsonl",
            "root/.git/x.jsonl",
            "root/._a.jsonl",
            "out/e",
        ] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        symlink("..", root.join("b/up")).unwrap();
        symlink("b", root.join("again")).unwrap();
        symlink("../out", root.join("there")).unwrap();
        symlink("a.jsonl", root.join("link.jsonl")).unwrap();
        symlink("gone", root.join("lost.jsonl")).unwrap();
        symlink("self", root.join("self")).unwrap();
        let files = files(&root).unwrap();
        let found: Vec<&str> = files.keys().map(String::as_str).collect();
        let wanted = [
            "a.jsonl",
            "b/c/d.jsonl",
            "link.jsonl",
            "lost.jsonl",
            "self",
            "there/e",
        ];
        assert_eq!(found, wanted);
    }
}
