//! The files of a repository at one commit, as a folder on this machine.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{self, Client};
use super::repo::{File, Repo};
use crate::digest::{hex, sha256};
use crate::error::{Context, Error, Result};
use crate::store::cache::{Cache, touch};
use crate::store::{Address, Session, check_key, remote_error, runtime};

/// Files that are not kept apart are read whole; git hosts keep them small.
const SMALL: u64 = 256 << 20;

/// A repository, or a folder of one, at one commit.
#[derive(Debug)]
pub struct Snapshot {
    repo: Repo,
    folder: String,
    commit: String,
    cache: Cache,
    files: BTreeMap<String, File>,
    offline: bool,
}

impl Snapshot {
    /// Lists the files at `address`, without fetching any. Offline, returns the list of the last
    /// visit.
    ///
    /// # Errors
    /// When the address is not of a hub, there is no such repository, the hub is not reached, or
    /// `session` has no cache.
    pub fn open(address: &Address, session: &Session) -> Result<Self> {
        let (repo, folder) = Repo::of(address, session)?.ok_or_else(|| {
            Error::invalid(format!(
                "{address} is no repository of a hub (hf://owner/name)"
            ))
        })?;
        let cache = { session.cache().cloned() }
            .ok_or_else(|| Error::invalid("there is no folder for a cache; set LYCEUM_CACHE"))?;
        let offline = client::offline(session);
        let place = address.to_string();
        let key = format!("{} {place}", repo.client.endpoint);
        let known = |what: &str| cache.recall(&key, what);
        let commit = match offline {
            true => { known("commit") }
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| remote_error::offline(&place, "it"))?,
            false => {
                let repo = repo.clone();
                runtime::wait(async move { repo.head().await })?
            }
        };
        let listed = format!("files-{commit}");
        let files = match known(&listed).and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(files) => files,
            None if offline => return Err(remote_error::offline(&place, "its list of files")),
            None => {
                let files = list(&repo.at(&commit), &folder)?;
                let text =
                    serde_json::to_vec(&files).map_err(|e| Error::format("a list of files", e))?;
                cache.remember(&key, &listed, &text)?;
                files
            }
        };
        cache.remember(&key, "commit", commit.as_bytes())?;
        Ok(Snapshot {
            repo,
            folder,
            commit,
            cache,
            files,
            offline,
        })
    }

    /// The files there are, below the folder of the address.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Fetches `paths`, verified by size and hash, and returns the folder they are in. What is
    /// in the cache is not fetched.
    ///
    /// # Errors
    /// When one is not there, cannot be fetched or arrives damaged.
    pub fn fetch<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<PathBuf> {
        let endpoint = &self.repo.client.endpoint;
        let what = format!(
            "{endpoint} {} {} {}",
            self.repo.id(),
            self.commit,
            self.folder
        );
        let name = self
            .folder
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty());
        let folder = self.cache.folder(&what, name.unwrap_or(&self.repo.name));
        for path in paths {
            let file = self.files.get(path).ok_or_else(|| {
                let names = self.files.keys().map(String::as_str);
                Error::not_found("file", path, names)
            })?;
            let object = { self.object(file) }
                .context(|| format!("fetching {path} of {}", self.repo.place))?;
            link(&object, &folder.join(path))?;
        }
        if let Some(held) = folder.parent() {
            touch(held);
        }
        Ok(folder)
    }

    /// The cached object of `file`, fetched if it is not there.
    fn object(&self, file: &File) -> Result<PathBuf> {
        let hit = || tracing::debug!(place = self.repo.place, path = file.path, "cache hit");
        if let Some(lfs) = &file.lfs {
            if let Some(path) = self.cache.file(&lfs.oid) {
                hit();
                return Ok(path);
            }
            self.missing(file)?;
            // One process fetches, others wait for it.
            let _held = self.cache.lock(&lfs.oid)?;
            if let Some(path) = self.cache.file(&lfs.oid) {
                return Ok(path);
            }
            return self.download(file, lfs.size, &lfs.oid);
        }
        // Which SHA-256 git's own name of a file goes with.
        let known = self.cache.recall("git", &file.oid);
        let known = known.and_then(|sha| String::from_utf8(sha).ok());
        if let Some(path) = known.and_then(|sha| self.cache.file(&sha)) {
            hit();
            return Ok(path);
        }
        self.missing(file)?;
        let (repo, path) = (self.repo.at(&self.commit), self.full(&file.path));
        if file.size > SMALL {
            return Err(damaged(&file.path, "is too large for a file kept in git"));
        }
        let bytes = runtime::wait(async move { repo.read(&path).await })?;
        if bytes.len() as u64 != file.size || git(&bytes) != file.oid {
            return Err(damaged(&file.path, "is not what the hub lists"));
        }
        let sha = sha256(&bytes);
        let path = self.cache.put(&sha, &bytes)?;
        self.cache.remember("git", &file.oid, sha.as_bytes())?;
        Ok(path)
    }

    fn full(&self, path: &str) -> String {
        match self.folder.is_empty() {
            true => path.to_owned(),
            false => format!("{}/{path}", self.folder),
        }
    }

    /// Reports that `file` has to be fetched, which is an error offline.
    fn missing(&self, file: &File) -> Result<()> {
        match self.offline {
            true => Err(remote_error::offline(&self.repo.place, "it")),
            false => {
                tracing::debug!(place = self.repo.place, path = file.path, "cache miss");
                Ok(())
            }
        }
    }

    /// Fetches a large file, going on where a broken connection ended.
    fn download(&self, file: &File, size: u64, sha: &str) -> Result<PathBuf> {
        let url = self.repo.at(&self.commit).resolve(&self.full(&file.path));
        let (client, place) = (self.repo.client.clone(), self.repo.place.clone());
        let (name, draft) = (file.path.clone(), self.cache.draft()?);
        let (draft, found, length) = runtime::wait(async move {
            let mut draft = draft;
            let got = fetch(&client, (&place, &url), &mut draft, size).await?;
            Ok((draft, got.0, got.1))
        })?;
        if length < size {
            return Err(remote_error::truncated(&self.repo.place, &name));
        }
        if length != size || found != sha {
            return Err(damaged(&name, "is not what the hub lists"));
        }
        self.cache.keep(draft, sha)
    }
}

/// Writes what is at `url` to `draft`; its SHA-256 and length.
async fn fetch(
    client: &Client,
    (place, url): (&str, &str),
    draft: &mut tempfile::NamedTempFile,
    size: u64,
) -> Result<(String, u64)> {
    let (mut hash, mut at) = (Sha256::new(), 0u64);
    let io = |e| Error::Io {
        path: "the cache".into(),
        source: e,
    };
    for _ in 0..5 {
        let from = at;
        let mut answer = client
            .ask(place, |http| {
                let request = client.signed(http.get(url));
                match from {
                    0 => request,
                    from => request.header("range", format!("bytes={from}-")),
                }
            })
            .await?;
        if from > 0 && answer.status().as_u16() != 206 {
            (hash, at) = (Sha256::new(), 0);
            draft.as_file().set_len(0).map_err(io)?;
            draft.seek(SeekFrom::Start(0)).map_err(io)?;
        }
        while let Ok(Some(chunk)) = answer.chunk().await {
            at += chunk.len() as u64;
            if at > size {
                break;
            }
            hash.update(&chunk);
            draft.write_all(&chunk).map_err(io)?;
        }
        if at >= size {
            break;
        }
    }
    Ok((hex(hash.finalize()), at))
}

fn damaged(path: &str, why: &str) -> Error {
    Error::format(
        path,
        format!("{why}; nothing of it was kept, fetch it again"),
    )
}

/// Git's name for a file of these bytes.
fn git(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(hash.finalize())
}

fn list(repo: &Repo, folder: &str) -> Result<BTreeMap<String, File>> {
    let (own, below) = (repo.clone(), folder.to_owned());
    let listed = runtime::wait(async move { own.tree(&below).await });
    let listed = listed.map_err(|error| match error {
        Error::NotFound { .. } => Error::not_found("folder", folder, []),
        other => other,
    })?;
    let own = match folder.is_empty() {
        true => String::new(),
        false => format!("{folder}/"),
    };
    let mut files = BTreeMap::new();
    for mut file in listed {
        let Some(path) = file.path.strip_prefix(&own) else {
            continue;
        };
        let hidden = path
            .split('/')
            .any(|part| part.starts_with('.') && part != "..");
        if file.kind != "file" || hidden {
            continue;
        }
        check_key(path).context(|| format!("the list of {}", repo.place))?;
        let hexes = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_hexdigit());
        let named = match &file.lfs {
            Some(lfs) => hexes(&lfs.oid, 64),
            None => hexes(&file.oid, 40),
        };
        if !named {
            let why = format!("the hub gives no hash of `{path}`");
            return Err(Error::format(&repo.place, why));
        }
        file.path = path.to_owned();
        files.insert(file.path.clone(), file);
    }
    Ok(files)
}

/// Makes `to` another name of the file `from`, whatever was there.
fn link(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().unwrap_or(to);
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let beside = tempfile::Builder::new().prefix(".tmp-").tempdir_in(dir);
    let beside = beside.map_err(|e| Error::io(dir, e))?;
    let new = beside.path().join("new");
    // Where there are no hard links a copy serves as well.
    if std::fs::hard_link(from, &new).is_err() {
        std::fs::copy(from, &new).map_err(|e| Error::io(&new, e))?;
    }
    std::fs::rename(&new, to).map_err(|e| Error::io(to, e))
}
