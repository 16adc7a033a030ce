//! Opening libraries and making new ones.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::blob::Objects;
use super::snapshot::Snapshot;
use super::{Access, Library, foreign};
use crate::error::{Context, Error, Hint, RemoteErrorKind, Result};
use crate::store::{self, Put, Session, Store};

/// The key that makes a place a library.
pub(super) const MARKER: &str = "library.json";
const FORMAT: u64 = 2;

fn marker() -> String {
    format!("{{\"format\":{FORMAT}}}\n")
}

fn none_at(uri: &str) -> Error {
    Error::not_found("library", uri, []).hint(Hint::Train {
        library: uri.to_owned(),
    })
}

/// Checks that `marker` is that of a library this version knows.
fn known(marker: &[u8]) -> Result<()> {
    let marker: Value = serde_json::from_slice(marker).map_err(|e| Error::format(MARKER, e))?;
    match marker.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => Ok(()),
        _ => {
            let why = "a library format this version does not know";
            Err(Error::format(MARKER, why))
        }
    }
}

impl Library {
    /// Opens the library at `uri` for writing, making it if there is none.
    ///
    /// # Errors
    /// When the place cannot be written safely.
    pub fn create(uri: &str) -> Result<Self> {
        Library::create_with(uri, &Session::from_env())
    }

    /// As [`Library::create`], with the cache and the credentials of `session`.
    ///
    /// # Errors
    /// As [`Library::create`].
    pub fn create_with(uri: &str, session: &Session) -> Result<Self> {
        let library = Library::prepare_with(uri, session)?;
        library.make()?;
        Ok(library)
    }

    /// Opens the library at `uri` for writing. Where there is none, the place is tried now and the
    /// library made by its first commit, or by [`Library::make`]: work that fails before leaves
    /// nothing there.
    ///
    /// # Errors
    /// When the place cannot be written safely.
    pub fn prepare(uri: &str) -> Result<Self> {
        Library::prepare_with(uri, &Session::from_env())
    }

    /// As [`Library::prepare`], with the cache and the credentials of `session`.
    ///
    /// # Errors
    /// As [`Library::prepare`].
    pub fn prepare_with(uri: &str, session: &Session) -> Result<Self> {
        Library::prepared(store::open_with(uri, session)?)
    }

    /// As [`Library::prepare`], in `store`.
    pub(super) fn prepared(store: Arc<dyn Store>) -> Result<Self> {
        match store.get(MARKER) {
            Ok(marker) => {
                let library = Library::marked(store, Access::Write, &marker)?;
                library.check_writable()?;
                Ok(library)
            }
            Err(Error::NotFound { .. }) => {
                let none = Snapshot::none();
                let library = Library::looking(Objects { store }, Access::Write, none);
                let absent = absent(&*library.shared.objects.store);
                let tried = library.check_writable();
                // Deepest first; one that others have begun to fill stays.
                for folder in absent {
                    let _ = std::fs::remove_dir(folder);
                }
                tried.map(|()| library)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the library now if it still has to be made.
    ///
    /// # Errors
    /// When the place cannot be written.
    pub fn make(&self) -> Result<()> {
        if self.shared.made.get().is_some() {
            return Ok(());
        }
        let store = &*self.shared.objects.store;
        match store.put(MARKER, marker().as_bytes(), Put::New) {
            Ok(()) => store.flush()?,
            // Another writer was first, or an answer was lost.
            Err(Error::Exists { .. }) => {
                known(&store.get(MARKER)?)?;
                self.refresh()?;
            }
            Err(error) => return Err(error),
        }
        let _ = self.shared.made.set(());
        Ok(())
    }

    /// Opens the library at `uri`; its store is probed before the first change. What MTTL or PEFT
    /// keep there is opened for reading only.
    ///
    /// # Errors
    /// When there is none, or its format is not known.
    pub fn open(uri: &str) -> Result<Self> {
        Library::open_with(uri, &Session::from_env())
    }

    /// As [`Library::open`], with the cache and the credentials of `session`.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn open_with(uri: &str, session: &Session) -> Result<Self> {
        let store = store::open_with(uri, session)?;
        let missing = match store.get(MARKER) {
            Ok(marker) => return Library::marked(store, Access::Write, &marker),
            Err(error) => error,
        };
        // Offline, what another tool keeps may be here although this was never a library.
        let offline = matches!(
            missing,
            Error::Remote {
                kind: RemoteErrorKind::Offline,
                ..
            }
        );
        if !offline && !matches!(missing, Error::NotFound { .. }) {
            return Err(missing);
        }
        match foreign::open(uri, session)? {
            Some(foreign) => Ok(foreign),
            None if offline => Err(missing),
            None => Err(none_at(uri)),
        }
    }

    /// Makes a library in `store`, which must be empty or a library already: one's own
    /// implementation of [`Store`], say.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn create_over(store: Arc<dyn Store>) -> Result<Self> {
        let library = Library::looking(Objects { store }, Access::Write, Snapshot::none());
        library.make()?;
        Ok(library)
    }

    /// The library in `store`.
    ///
    /// # Errors
    /// When there is none, or its format is not known.
    pub fn over(store: Arc<dyn Store>, read_only: bool) -> Result<Self> {
        let access = if read_only {
            Access::Read
        } else {
            Access::Write
        };
        Library::within_reach(store, access)
    }

    /// The library in `store`, for what `access` permits.
    pub(super) fn within_reach(store: Arc<dyn Store>, access: Access) -> Result<Self> {
        match store.get(MARKER) {
            Ok(marker) => Library::marked(store, access, &marker),
            Err(Error::NotFound { .. }) => Err(none_at(&store.uri())),
            Err(error) => Err(error),
        }
    }

    /// The library in `store`, whose marker is `marker`.
    fn marked(store: Arc<dyn Store>, access: Access, marker: &[u8]) -> Result<Self> {
        known(marker)?;
        let objects = Objects { store };
        let current = Snapshot::latest(&objects, None)?;
        let library = Library::looking(objects, access, current);
        let _ = library.shared.made.set(());
        Ok(library)
    }

    /// Refuses to write where that is not safe; a store is probed once per handle.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.shared.access != Access::Write {
            let uri = self.uri();
            let why = format!(
                "{uri} is open for reading only: it is an older version, or a library of another \
                 tool, which has to be imported first"
            );
            return Err(Error::invalid(why).hint(Hint::Import { source: uri }));
        }
        if self.shared.probed.get().is_none() {
            store::probe(&*self.shared.objects.store)
                .context(|| format!("{} cannot be written", self.uri()))?;
            let _ = self.shared.probed.set(());
        }
        Ok(())
    }
}

/// The folders of a local store that are not there yet, deepest first.
fn absent(store: &dyn Store) -> Vec<PathBuf> {
    let Some(root) = store.folder() else {
        return Vec::new();
    };
    let probe = root.join("probe");
    let folders = probe.ancestors().filter(|dir| !dir.as_os_str().is_empty());
    let absent = folders.take_while(|dir| !dir.exists());
    absent.map(ToOwned::to_owned).collect()
}
