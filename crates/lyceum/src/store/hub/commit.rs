//! Commits: several files changed in one step, on condition that nobody else was first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::client;
use super::repo::Repo;
use crate::digest::sha256;
use crate::error::{Error, RemoteErrorKind, Result};
use crate::store::{Change, remote_error};

/// Files per preupload or LFS request.
const FILES_PER_REQUEST: usize = 256;

/// The outcome of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there.
    Done,
    /// The branch is no longer where it was thought to be; nothing happened.
    Stale,
}

/// The hub's upload instructions for a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preupload {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Deserialize)]
struct Place {
    href: String,
    #[serde(default)]
    header: std::collections::BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Wanted {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(default)]
    upload: Option<Place>,
    #[serde(default)]
    verify: Option<Place>,
}

impl Repo {
    /// Commits `changes` (bytes, or `None` to delete) called `summary` on the revision, if it is
    /// still at `parent`; whatever it is at when absent.
    pub(super) async fn commit(
        &self,
        parent: Option<&str>,
        summary: &str,
        changes: &[Change],
    ) -> Result<Outcome> {
        let files: Vec<(&str, &[u8])> = { changes.iter() }
            .filter_map(|(path, bytes)| Some((path.as_str(), bytes.as_deref()?)))
            .collect();
        let large = self.large(&files).await?;
        self.hand_over(&large).await?;
        let mut head = json!({ "summary": summary, "description": "" });
        if let Some(parent) = parent {
            head["parentCommit"] = parent.into();
        }
        let mut body = json!({ "key": "header", "value": head }).to_string();
        for (path, bytes) in changes {
            let line = match bytes {
                None => json!({ "key": "deletedFile", "value": { "path": path } }),
                Some(bytes) if large.iter().any(|(large, ..)| *large == path.as_str()) => json!({
                    "key": "lfsFile",
                    "value": {
                        "path": path, "algo": "sha256", "oid": sha256(bytes), "size": bytes.len(),
                    },
                }),
                Some(bytes) => json!({
                    "key": "file",
                    "value": {
                        "path": path, "encoding": "base64", "content": BASE64.encode(bytes),
                    },
                }),
            };
            body.push('\n');
            body += &line.to_string();
        }
        let url = self.api(&format!("commit/{}", self.rev()));
        let body = Bytes::from(body);
        let answer = self
            .client
            .send(&self.place, |http| {
                let request = http
                    .post(&url)
                    .header("content-type", "application/x-ndjson");
                self.client.signed(request).body(body.clone())
            })
            .await?;
        match answer.status().as_u16() {
            200..300 => Ok(Outcome::Done),
            409 | 412 => Ok(Outcome::Stale),
            _ => Err(client::refused(&self.place, &answer)),
        }
    }

    /// Those of `files` that the hub wants apart from the commit, with their SHA-256.
    async fn large<'a>(
        &self,
        files: &[(&'a str, &'a [u8])],
    ) -> Result<Vec<(&'a str, &'a [u8], String)>> {
        #[derive(Deserialize)]
        struct Answer {
            files: Vec<Preupload>,
        }
        let url = self.api(&format!("preupload/{}", self.rev()));
        let mut large = Vec::new();
        for some in files.chunks(FILES_PER_REQUEST) {
            let described: Vec<_> = { some.iter() }
                .map(|(path, bytes)| {
                    let sample = BASE64.encode(&bytes[..bytes.len().min(512)]);
                    json!({ "path": path, "size": bytes.len(), "sample": sample })
                })
                .collect();
            let body = json!({ "files": described }).to_string();
            let make = |http: &reqwest::Client| {
                let request = http.post(&url).header("content-type", "application/json");
                self.client.signed(request).body(body.clone())
            };
            let answer: Answer = self.json(make).await?;
            for (path, bytes) in some {
                let how = answer.files.iter().find(|file| file.path == *path);
                if how.is_some_and(|how| how.should_ignore) {
                    return Err(Error::invalid(format!(
                        "{}: the repository's .gitignore shuts out `{path}`; remove that line",
                        self.place
                    )));
                }
                if how.is_some_and(|how| how.upload_mode == "lfs") {
                    large.push((*path, *bytes, sha256(bytes)));
                }
            }
        }
        Ok(large)
    }

    /// Brings large files to where the hub wants them.
    async fn hand_over(&self, large: &[(&str, &[u8], String)]) -> Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            objects: Vec<Wanted>,
        }
        let url = self.lfs();
        for some in large.chunks(FILES_PER_REQUEST) {
            let objects: std::collections::BTreeMap<&str, usize> = { some.iter() }
                .map(|(_, bytes, sha)| (sha.as_str(), bytes.len()))
                .collect();
            let objects: Vec<_> = { objects.iter() }
                .map(|(sha, size)| json!({ "oid": sha, "size": size }))
                .collect();
            let body = json!({
                "operation": "upload", "transfers": ["basic"], "objects": objects,
                "hash_algo": "sha256",
            });
            let body = body.to_string();
            let make = |http: &reqwest::Client| {
                let request = http
                    .post(&url)
                    .header("content-type", "application/vnd.git-lfs+json")
                    .header("accept", "application/vnd.git-lfs+json");
                self.client.signed(request).body(body.clone())
            };
            let answer: Answer = self.json(make).await?;
            for wanted in answer.objects {
                let Some((path, bytes, _)) = some.iter().find(|(_, _, sha)| *sha == wanted.oid)
                else {
                    continue;
                };
                if wanted.error.is_some() {
                    let why = format!("the hub refuses the large file `{path}`");
                    return Err(remote_error::remote(
                        &self.place,
                        RemoteErrorKind::Other,
                        why,
                    ));
                }
                let Some(actions) = wanted.actions else {
                    continue;
                };
                if let Some(place) = actions.upload {
                    self.upload(&place, bytes).await?;
                }
                if let Some(place) = actions.verify {
                    self.verify(&place, &wanted.oid, bytes.len()).await?;
                }
            }
        }
        Ok(())
    }

    /// Puts `bytes` where the hub said; the address carries its own permission.
    async fn upload(&self, place: &Place, bytes: &[u8]) -> Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        self.client
            .ask(&self.place, |http| {
                let mut request = http.put(&place.href).body(bytes.clone());
                for (name, value) in &place.header {
                    if let Some(value) = value.as_str() {
                        request = request.header(name, value);
                    }
                }
                request
            })
            .await
            .map(|_| ())
    }

    async fn verify(&self, place: &Place, oid: &str, size: usize) -> Result<()> {
        let body = json!({ "oid": oid, "size": size }).to_string();
        // Our token goes to the hub and to nobody else.
        let ours = place
            .href
            .starts_with(&format!("{}/", self.client.endpoint));
        self.client
            .ask(&self.place, |http| {
                let request = http.post(&place.href).body(body.clone());
                let request = request.header("content-type", "application/vnd.git-lfs+json");
                match ours {
                    true => self.client.signed(request),
                    false => request,
                }
            })
            .await
            .map(|_| ())
    }
}
