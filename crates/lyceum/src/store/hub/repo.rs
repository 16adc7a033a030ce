//! One repository of a hub: its files at a revision, and commits.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{self, Client};
use crate::error::{Error, Result};
use crate::store::{Address, Session, remote_error};

/// Characters that are not escaped in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');
/// No listing of a repository is longer.
const PAGES: usize = 10_000;

/// A repository at a revision.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(super) client: Client,
    /// As people write it, for errors.
    pub(super) place: String,
    dataset: bool,
    owner: String,
    pub(super) name: String,
    pub(super) revision: String,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct File {
    /// `file` or `directory`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The file's path.
    pub(crate) path: String,
    /// Bytes.
    #[serde(default)]
    pub(crate) size: u64,
    /// Git's SHA-1 of it.
    #[serde(default)]
    pub(super) oid: String,
    /// Storage of large files.
    #[serde(default)]
    pub(super) lfs: Option<Lfs>,
}

/// Metadata of a large file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lfs {
    /// Hex SHA-256 of it.
    pub(super) oid: String,
    /// Bytes.
    pub(super) size: u64,
}

pub(super) fn plain(path: &str) -> String {
    utf8_percent_encode(path, PLAIN).to_string()
}

impl Repo {
    /// The repository at `address`, and the folder in it; `None` for addresses of other kinds.
    pub(crate) fn of(address: &Address, session: &Session) -> Result<Option<(Self, String)>> {
        let Address::Hub {
            dataset,
            owner,
            name,
            revision,
            path,
        } = address
        else {
            return Ok(None);
        };
        let repo = Repo {
            client: Client::new(session)?,
            place: address.to_string(),
            dataset: *dataset,
            owner: owner.clone(),
            name: name.clone(),
            revision: revision.clone().unwrap_or_else(|| "main".into()),
        };
        Ok(Some((repo, path.clone())))
    }

    /// The same repository at another revision.
    pub(super) fn at(&self, revision: &str) -> Self {
        Repo {
            revision: revision.to_owned(),
            ..self.clone()
        }
    }

    /// `owner/name`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The address of `verb` in the hub's API.
    pub(super) fn api(&self, verb: &str) -> String {
        let kind = if self.dataset { "datasets" } else { "models" };
        let (endpoint, id) = (&self.client.endpoint, plain(&self.id()));
        format!("{endpoint}/api/{kind}/{id}/{verb}")
    }

    /// The revision as a part of an address.
    pub(super) fn rev(&self) -> String {
        plain(&self.revision).replace('/', "%2F")
    }

    /// The address of a file's content.
    pub(super) fn resolve(&self, path: &str) -> String {
        let kind = if self.dataset { "datasets/" } else { "" };
        let (endpoint, id) = (&self.client.endpoint, plain(&self.id()));
        format!(
            "{endpoint}/{kind}{id}/resolve/{}/{}",
            self.rev(),
            plain(path)
        )
    }

    /// The URL of the LFS batch API of this repository.
    pub(super) fn lfs(&self) -> String {
        let kind = if self.dataset { "datasets/" } else { "" };
        let (endpoint, id) = (&self.client.endpoint, plain(&self.id()));
        format!("{endpoint}/{kind}{id}.git/info/lfs/objects/batch")
    }

    /// An answer of the API as JSON.
    pub(super) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        make: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder,
    ) -> Result<T> {
        let (body, _) = self.client.body(&self.place, make).await?;
        self.parsed(&body)
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|_| {
            Error::format(&self.place, "the hub's answer is not what its API promises")
        })
    }

    /// The commit the revision stands for.
    pub(super) async fn head(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
        }
        // Without `expand` the answer lists every file there is.
        let url = self.api(&format!("revision/{}?expand=sha", self.rev()));
        let client = &self.client;
        let info: Info = self.json(|http| client.signed(http.get(&url))).await?;
        let hex = |c: u8| c.is_ascii_hexdigit();
        if info.sha.len() < 7 || !info.sha.bytes().all(hex) {
            return Err(Error::format(
                &self.place,
                "the hub names a commit that is none",
            ));
        }
        Ok(info.sha)
    }

    /// The files below `folder`, which must be there.
    pub(super) async fn tree(&self, folder: &str) -> Result<Vec<File>> {
        let slash = if folder.is_empty() { "" } else { "/" };
        let below = format!("{slash}{}", plain(folder));
        let mut url = self.api(&format!("tree/{}{below}?recursive=true", self.rev()));
        let mut files: Vec<File> = Vec::new();
        for _ in 0..PAGES {
            let client = &self.client;
            let make = |http: &reqwest::Client| client.signed(http.get(&url));
            let (body, headers) = self.client.body(&self.place, make).await?;
            files.extend(self.parsed::<Vec<File>>(&body)?);
            match next(&headers) {
                // Our token goes to the hub and to nobody else.
                Some(more) if self.ours(&more) => url = more,
                Some(_) => {
                    let why = "the hub continues a list at another address";
                    return Err(Error::format(&self.place, why));
                }
                None => return Ok(files),
            }
        }
        Err(Error::format(
            &self.place,
            "the hub's list of files does not end",
        ))
    }

    fn ours(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.client.endpoint);
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    /// Which of `paths` there are.
    pub(super) async fn info(&self, paths: &[String]) -> Result<Vec<File>> {
        let url = self.api(&format!("paths-info/{}", self.rev()));
        let mut found = Vec::new();
        for some in paths.chunks(500) {
            let body = json!({ "paths": some, "expand": false }).to_string();
            let make = |http: &reqwest::Client| {
                let request = http.post(&url).header("content-type", "application/json");
                self.client.signed(request).body(body.clone())
            };
            found.extend(self.json::<Vec<File>>(make).await?);
        }
        Ok(found)
    }

    /// The bytes of the file at `path`.
    pub(super) async fn read(&self, path: &str) -> Result<Vec<u8>> {
        let (url, client) = (self.resolve(path), &self.client);
        let make = |http: &reqwest::Client| client.signed(http.get(&url));
        match client.body(&self.place, make).await {
            Ok((body, _)) => Ok(body),
            Err(Error::NotFound { .. }) => Err(Error::not_found("file", path, [])),
            Err(error) => Err(error),
        }
    }

    /// Returns `true` if there is a file at `path`.
    pub(super) async fn holds(&self, path: &str) -> Result<bool> {
        let (url, client) = (self.resolve(path), &self.client);
        let answer = client
            .send(&self.place, |http| client.signed(http.head(&url)))
            .await?;
        match answer.status().as_u16() {
            200..300 => Ok(true),
            404 if client::code(answer.headers()).is_none_or(|code| code == "EntryNotFound") => {
                Ok(false)
            }
            _ => Err(client::refused(&self.place, &answer)),
        }
    }

    /// Makes the repository, private.
    pub(super) async fn make(&self) -> Result<()> {
        let kind = if self.dataset { "dataset" } else { "model" };
        let body = json!({
            "name": self.name, "organization": self.owner, "type": kind, "private": true,
        });
        let (url, body) = (
            format!("{}/api/repos/create", self.client.endpoint),
            body.to_string(),
        );
        let answer = self
            .client
            .send(&self.place, |http| {
                let request = http.post(&url).header("content-type", "application/json");
                self.client.signed(request).body(body.clone())
            })
            .await?;
        match answer.status().as_u16() {
            // 409: somebody else made it meanwhile.
            200..300 | 409 => Ok(()),
            status => Err(remote_error::refused(
                &self.place,
                (status, client::code(answer.headers())),
                1,
                super::client::LOGIN,
            )),
        }
    }
}

/// The address of a list's next page.
fn next(headers: &reqwest::header::HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().ok()?;
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let url = part.split_once('<')?.1.split_once('>')?.0;
    Some(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_for_addresses() {
        assert_eq!(plain("a/b c/é#.json"), "a/b%20c/%C3%A9%23.json");
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let mut headers = reqwest::header::HeaderMap::new();
        assert_eq!(next(&headers), None);
        let link = "<http://h/a?cursor=1>; rel=\"prev\", <http://h/a?cursor=3>; rel=\"next\"";
        headers.insert("link", link.parse().unwrap());
        assert_eq!(next(&headers).unwrap(), "http://h/a?cursor=3");
    }
}
