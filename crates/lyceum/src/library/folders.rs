//! The experts of a library as PEFT folders, on local disk and on a hub.
//!
//! On a hub they are files that change in the same commit as the version. On local disk
//! `experts/NAME/` holds hard links to the objects of the latest version, so that any PEFT tool
//! loads it. It is a view: readers here never use it, and every commit brings it up to date,
//! starting from the version noted in `experts/.version`; what a stopped writer left undone the
//! next one does.

use std::collections::BTreeMap;
use std::path::Path;

use super::blob::Objects;
use super::entry::Entry;
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::Change;

const NOTE: &str = ".version";

/// Brings the folders of a local store to its latest version; other stores have none.
pub(super) fn follow(objects: &Objects) -> Result<()> {
    let Some(root) = objects.store.folder() else {
        return Ok(());
    };
    let dir = root.join("experts");
    if noted(&dir) == Some(Snapshot::latest(objects, None)?.version()) {
        return Ok(());
    }
    std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
    let lock = dir.join(".lock");
    let file = std::fs::File::create(&lock).map_err(|e| Error::io(&lock, e))?;
    // Released when the file closes, also when this process is killed.
    file.lock().map_err(|e| Error::io(&lock, e))?;
    let head = Snapshot::latest(objects, None)?;
    let base = base(objects, noted(&dir));
    let names: Vec<Name> = match &base {
        Some(base) => base.index.differing(&head.index, objects)?,
        None => head.all(objects)?.into_keys().collect(),
    };
    for name in &names {
        let entry = head.index.get(objects, name)?.filter(Entry::live);
        let old = match &base {
            Some(base) => base.index.get(objects, name)?,
            None => None,
        };
        let unchanged = |old: &Entry| old.live() && entry.as_ref().is_some_and(|e| e.same(old));
        if !old.as_ref().is_some_and(unchanged) {
            show((root, &dir), name, entry.as_ref(), old.as_ref())?;
        }
    }
    crate::file::write(&dir.join(NOTE), head.version().to_string().as_bytes())
}

/// The changes under `experts/` when `entries` replace those of `head`.
pub(super) fn changes(
    objects: &Objects,
    entries: &BTreeMap<Name, Option<Entry>>,
    head: &Snapshot,
) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (name, entry) in entries {
        let old = head.index.get(objects, name)?.filter(Entry::live);
        let new = entry.as_ref().filter(|entry| entry.live());
        let held = |file: &str| old.as_ref().and_then(|old| old.files.get(file));
        for (file, blob) in new.into_iter().flat_map(|new| &new.files) {
            if !held(file).is_some_and(|held| held.same(blob)) {
                changes.push((key(name, file), Some(objects.get(blob)?)));
            }
        }
        let kept = |file: &str| new.is_some_and(|new| new.files.contains_key(file));
        for file in old.iter().flat_map(|old| old.files.keys()) {
            if !kept(file) {
                changes.push((key(name, file), None));
            }
        }
    }
    Ok(changes)
}

fn key(name: &Name, file: &str) -> String {
    format!("experts/{name}/{file}")
}

fn noted(dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dir.join(NOTE)).ok()?;
    text.trim().parse().ok()
}

/// The version the folders show; `None` when that is not known and all must be made.
fn base(objects: &Objects, noted: Option<u64>) -> Option<Snapshot> {
    match noted? {
        0 => None,
        version => Snapshot::at(objects, version).ok(),
    }
}

/// Makes `experts/NAME` show `entry`, or go. It is built beside and moved into place, so that a
/// folder never mixes two versions.
fn show(
    (root, dir): (&Path, &Path),
    name: &Name,
    entry: Option<&Entry>,
    old: Option<&Entry>,
) -> Result<()> {
    let path = dir.join(name.as_str());
    let io = |e| Error::io(&path, e);
    let aside = |what: &str| {
        let made = tempfile::Builder::new().prefix(what).tempdir_in(dir);
        made.map_err(|e| Error::io(dir, e))
    };
    let fresh = match entry {
        None => None,
        Some(entry) => {
            let fresh = aside(".new-")?;
            for (file, blob) in &entry.files {
                let (from, to) = (root.join(blob.key()), fresh.path().join(file));
                // Where there are no hard links a copy serves as well.
                if std::fs::hard_link(&from, &to).is_err() {
                    std::fs::copy(&from, &to).map_err(|e| Error::io(&to, e))?;
                }
            }
            Some(fresh)
        }
    };
    if path.symlink_metadata().is_ok() {
        let away = aside(".old-")?;
        let gone = away.path().join(name.as_str());
        std::fs::rename(&path, &gone).map_err(io)?;
        if !ours(&gone, old) {
            // Somebody kept something of their own there: it stays, out of the way.
            let _ = away.keep();
        }
    }
    if let Some(fresh) = fresh {
        #[cfg(unix)]
        readable(fresh.path())?;
        std::fs::rename(fresh.path(), &path).map_err(io)?;
        // It is no longer where it would be deleted from.
        let _ = fresh.keep();
    }
    Ok(())
}

/// Returns `true` if a folder has nothing but links to objects, or copies of `old`.
fn ours(folder: &Path, old: Option<&Entry>) -> bool {
    let Ok(files) = std::fs::read_dir(folder) else {
        return false;
    };
    let mine = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.ok()?;
        let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        if linked(&meta) {
            return Some(());
        }
        let name = file.file_name();
        let blob = old?.files.get(name.to_str()?)?;
        let bytes = std::fs::read(file.path()).ok()?;
        (blob.sha256() == crate::digest::sha256(&bytes)).then_some(())
    };
    files.map(mine).all(|mine| mine.is_some())
}

#[cfg(unix)]
fn linked(meta: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(meta) > 1
}

#[cfg(not(unix))]
fn linked(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(unix)]
fn readable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Temporary folders are private; this one is as open as the folder it goes to.
    let parent = dir.parent().unwrap_or(dir);
    let mode = { parent.metadata() }.map_err(|e| Error::io(parent, e))?;
    std::fs::set_permissions(dir, PermissionsExt::from_mode(mode.permissions().mode()))
        .map_err(|e| Error::io(dir, e))
}
