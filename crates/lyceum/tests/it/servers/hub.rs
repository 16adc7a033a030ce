//! A small Hugging Face hub for tests: repositories in memory, commits on condition of their
//! parent, large files apart. The official Python client works against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::http::{Request, Response, Server, serve};

type Files = BTreeMap<String, Held>;

#[derive(Debug, Clone)]
struct Held {
    bytes: Arc<Vec<u8>>,
    large: bool,
}

#[derive(Debug, Clone)]
struct Commit {
    sha: String,
    summary: String,
    files: Arc<Files>,
}

#[derive(Debug, Default)]
struct State {
    /// By kind and id: the commits of `main`, oldest first.
    repos: BTreeMap<String, Vec<Commit>>,
    /// Large files handed over, by SHA-256.
    large: BTreeMap<String, Arc<Vec<u8>>>,
    /// Responses sent instead, with the number of times.
    faults: Vec<(String, usize, Response)>,
    /// Like `faults`, but the request is carried out.
    losses: Vec<(String, usize, Response)>,
    /// Takes any commit, whatever its parent.
    lies: bool,
    asked: Vec<String>,
}

/// A running hub.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    pub(crate) server: Server,
    state: Arc<Mutex<State>>,
}

/// The token that may do everything; any other is refused.
pub(crate) const TOKEN: &str = "hf_testtokenofnobody";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl Hub {
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let own = state.clone();
        let server = serve(move |url, request| own.lock().unwrap().answer(url, &request));
        Hub { server, state }
    }

    /// Answers `response` to the next `times` requests whose `METHOD path` holds `part`.
    pub(crate) fn fault(&self, part: &str, times: usize, response: Response) {
        let mut state = self.state.lock().unwrap();
        state.faults.push((part.to_owned(), times, response));
    }

    /// Does what the next `times` requests whose `METHOD path` holds `part` ask for, and answers
    /// `response`.
    pub(crate) fn lose(&self, part: &str, times: usize, response: Response) {
        let mut state = self.state.lock().unwrap();
        state.losses.push((part.to_owned(), times, response));
    }

    pub(crate) fn calm(&self) {
        let mut state = self.state.lock().unwrap();
        state.faults.clear();
        state.losses.clear();
    }

    pub(crate) fn lie(&self) {
        self.state.lock().unwrap().lies = true;
    }

    /// The requests since the last call, as `METHOD path`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Commits `files` to the repository `id` (`owner/name` or `datasets/owner/name`), made if
    /// there is none.
    pub(crate) fn fill(&self, id: &str, files: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap();
        let key = match id.starts_with("datasets/") {
            true => id.to_owned(),
            false => format!("models/{id}"),
        };
        state.create(&key);
        let held = |(path, bytes): &(&str, &[u8])| {
            let large = is_large(path, bytes.len() as u64);
            let bytes = Arc::new(bytes.to_vec());
            ((*path).to_owned(), Some(Held { bytes, large }))
        };
        state.commit(&key, "files", files.iter().map(held).collect());
    }

    /// The files on the branch of `owner/name` now.
    pub(crate) fn files(&self, id: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.lock().unwrap();
        let commits = &state.repos[&format!("models/{id}")];
        let files = commits.last().unwrap().files.iter();
        files
            .map(|(path, held)| (path.clone(), held.bytes.to_vec()))
            .collect()
    }

    /// Number of commits on the branch of `owner/name`.
    pub(crate) fn commits(&self, id: &str) -> usize {
        self.state.lock().unwrap().repos[&format!("models/{id}")].len()
    }
}

fn is_large(path: &str, size: u64) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".parquet") || size > 10_000_000
}

fn error(status: u16, code: &str) -> Response {
    let body = json!({ "error": code }).to_string();
    Response::new(status, body).with("x-error-code", code)
}

fn answer(value: &Value) -> Response {
    Response::new(200, value.to_string()).with("content-type", "application/json")
}

impl State {
    fn create(&mut self, key: &str) -> bool {
        if self.repos.contains_key(key) {
            return false;
        }
        self.repos.insert(key.to_owned(), Vec::new());
        let first = Held {
            bytes: Arc::new(b"*.safetensors filter=lfs\n".to_vec()),
            large: false,
        };
        let files = vec![(".gitattributes".to_owned(), Some(first))];
        self.commit(key, "initial commit", files);
        true
    }

    fn commit(&mut self, key: &str, summary: &str, changes: Vec<(String, Option<Held>)>) -> String {
        let commits = self.repos.get_mut(key).unwrap();
        let mut files = commits
            .last()
            .map_or_else(Files::new, |c| (*c.files).clone());
        for (path, held) in changes {
            match held {
                Some(held) => files.insert(path, held),
                None => files.remove(&path),
            };
        }
        let sha = git(format!("{key} {summary} {}", commits.len()).as_bytes());
        commits.push(Commit {
            sha: sha.clone(),
            summary: summary.to_owned(),
            files: Arc::new(files),
        });
        sha
    }

    fn answer(&mut self, url: &str, request: &Request) -> Response {
        let line = format!("{} {}", request.method, request.path);
        self.asked.push(line.clone());
        let fault = { self.faults.iter_mut() }.find(|(part, n, _)| *n > 0 && line.contains(part));
        if let Some((_, times, response)) = fault {
            *times -= 1;
            return response.clone();
        }
        let loss = { self.losses.iter_mut() }.find(|(part, n, _)| *n > 0 && line.contains(part));
        let lost = loss.map(|(_, times, response)| {
            *times -= 1;
            response.clone()
        });
        let answered = self.done(url, request);
        lost.unwrap_or(answered)
    }

    fn done(&mut self, url: &str, request: &Request) -> Response {
        let signed = request.headers.get("authorization");
        let write = request.method != "GET" && request.method != "HEAD";
        let read = request.path.contains("/paths-info/");
        let stored = request.path.starts_with("/store/");
        let allowed = signed.is_some_and(|token| token == &format!("Bearer {TOKEN}"));
        if signed.is_some_and(|_| !allowed) || (write && !read && !stored && !allowed) {
            return Response::new(401, json!({ "error": "Invalid credentials" }).to_string());
        }
        let path = request.path.trim_start_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["api", "whoami-v2"] => answer(&json!({
                "name": "tester", "type": "user", "orgs": [], "auth": { "type": "access_token" },
            })),
            ["api", "repos", "create"] => self.created(url, request),
            [
                "api",
                kind @ ("models" | "datasets"),
                owner,
                name,
                ref rest @ ..,
            ] => self.api(&format!("{kind}/{owner}/{name}"), rest, url, request),
            ["store", sha] if request.method == "PUT" => match sha256(&request.body) == sha {
                true => {
                    let bytes = Arc::new(request.body.clone());
                    self.large.insert(sha.to_owned(), bytes);
                    Response::new(200, "")
                }
                false => Response::new(400, "other bytes"),
            },
            ["datasets", owner, name, ref rest @ ..] => {
                self.content(&format!("datasets/{owner}/{name}"), rest, url, request)
            }
            [owner, name, ref rest @ ..] => {
                self.content(&format!("models/{owner}/{name}"), rest, url, request)
            }
            _ => error(404, "RepoNotFound"),
        }
    }

    fn created(&mut self, url: &str, request: &Request) -> Response {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let owner = body["organization"].as_str().unwrap_or("tester");
        let id = format!("{owner}/{}", body["name"].as_str().unwrap_or_default());
        let kind = match body["type"].as_str() {
            Some("dataset") => "datasets",
            _ => "models",
        };
        let text = json!({ "url": format!("{url}/{id}"), "name": id, "id": id });
        match self.create(&format!("{kind}/{id}")) {
            true => answer(&text),
            false => Response::new(409, text.to_string()),
        }
    }

    /// The commit a revision stands for.
    fn at(&self, key: &str, revision: &str) -> Result<Commit, Response> {
        let commits = self
            .repos
            .get(key)
            .ok_or_else(|| error(404, "RepoNotFound"))?;
        match revision {
            "main" => commits.last().cloned(),
            sha => commits.iter().find(|commit| commit.sha == sha).cloned(),
        }
        .ok_or_else(|| error(404, "RevisionNotFound"))
    }

    fn api(&mut self, key: &str, rest: &[&str], url: &str, request: &Request) -> Response {
        let id = key.split_once('/').unwrap().1.to_owned();
        let (verb, revision) = match rest {
            [] => ("revision", "main"),
            [verb] => (*verb, "main"),
            [verb, revision, ..] => (*verb, *revision),
        };
        let at = match self.at(key, revision) {
            Ok(commit) => commit,
            Err(refused) => return refused,
        };
        match verb {
            "revision" => {
                let siblings: Vec<Value> = match request.query.contains_key("expand") {
                    true => Vec::new(),
                    false => at
                        .files
                        .keys()
                        .map(|path| json!({ "rfilename": path }))
                        .collect(),
                };
                answer(&json!({
                    "id": id, "modelId": id, "sha": at.sha, "siblings": siblings, "private": false,
                    "tags": [], "downloads": 0, "likes": 0,
                }))
            }
            "refs" => answer(&json!({
                "branches": [{ "name": "main", "ref": "refs/heads/main", "targetCommit": at.sha }],
                "converts": [], "tags": [],
            })),
            "commits" => {
                let commits = self.repos[key].iter().rev();
                let told = |c: &Commit| {
                    json!({
                        "id": c.sha, "title": c.summary, "message": "", "authors": [],
                        "date": "2026-01-01T00:00:00.000Z",
                    })
                };
                answer(&commits.map(told).collect())
            }
            "tree" => tree(&at, &rest[2..].join("/"), url, request),
            "paths-info" => answer(&infos(&at, request)),
            "preupload" => {
                let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let files = body["files"].as_array().cloned().unwrap_or_default();
                let told = |file: &Value| {
                    let path = file["path"].as_str().unwrap_or_default();
                    let large = is_large(path, file["size"].as_u64().unwrap_or(0));
                    let mode = if large { "lfs" } else { "regular" };
                    json!({ "path": path, "uploadMode": mode, "shouldIgnore": false })
                };
                answer(&json!({ "files": files.iter().map(told).collect::<Vec<_>>() }))
            }
            "commit" => self.committed(key, (url, &id), request),
            _ => error(404, "EntryNotFound"),
        }
    }

    fn committed(&mut self, key: &str, (url, id): (&str, &str), request: &Request) -> Response {
        let mut changes = Vec::new();
        let mut summary = String::new();
        let head = self.repos[key].last().unwrap().sha.clone();
        for line in request
            .body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let Ok(line) = serde_json::from_slice::<Value>(line) else {
                return Response::new(400, "not a line of JSON");
            };
            let value = &line["value"];
            let path = value["path"].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str() {
                Some("header") => {
                    summary = value["summary"].as_str().unwrap_or_default().to_owned();
                    let parent = value["parentCommit"].as_str();
                    if parent.is_some_and(|parent| parent != head) && !self.lies {
                        return Response::new(412, "A commit has happened since");
                    }
                }
                Some("file") => {
                    let Ok(bytes) = BASE64.decode(value["content"].as_str().unwrap_or_default())
                    else {
                        return Response::new(400, "not base64");
                    };
                    let bytes = Arc::new(bytes);
                    changes.push((
                        path,
                        Some(Held {
                            bytes,
                            large: false,
                        }),
                    ));
                }
                Some("lfsFile") => {
                    let oid = value["oid"].as_str().unwrap_or_default();
                    let Some(bytes) = self.large.get(oid).cloned() else {
                        return Response::new(400, "this large file was not handed over");
                    };
                    changes.push((path, Some(Held { bytes, large: true })));
                }
                Some("deletedFile") => changes.push((path, None)),
                _ => return Response::new(400, "unknown operation"),
            }
        }
        let sha = self.commit(key, &summary, changes);
        answer(&json!({
            "success": true, "commitOid": sha, "commitUrl": format!("{url}/{id}/commit/{sha}"),
            "hookOutput": "",
        }))
    }

    fn content(&mut self, key: &str, rest: &[&str], url: &str, request: &Request) -> Response {
        if rest == ["info", "lfs", "objects", "batch"] {
            return self.batch(url, request);
        }
        let ["resolve", revision, path @ ..] = rest else {
            return error(404, "EntryNotFound");
        };
        let at = match self.at(key, revision) {
            Ok(commit) => commit,
            Err(refused) => return refused,
        };
        let path = path.join("/");
        let Some(held) = at.files.get(&path) else {
            return error(404, "EntryNotFound").with("x-repo-commit", at.sha);
        };
        let etag = match held.large {
            true => sha256(&held.bytes),
            false => git(&held.bytes),
        };
        let range = request.headers.get("range").and_then(|range| {
            let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            from.parse::<usize>().ok()
        });
        let (status, from) = match range {
            Some(from) => (206, from.min(held.bytes.len())),
            None => (200, 0),
        };
        Response::new(status, &held.bytes[from..])
            .with("etag", format!("\"{etag}\""))
            .with("x-repo-commit", at.sha)
            .with("accept-ranges", "bytes")
    }

    fn batch(&mut self, url: &str, request: &Request) -> Response {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let objects = body["objects"].as_array().cloned().unwrap_or_default();
        let told = |object: &Value| {
            let oid = object["oid"].as_str().unwrap_or_default();
            let mut told = json!({ "oid": oid, "size": object["size"] });
            if !self.large.contains_key(oid) {
                let href = format!("{url}/store/{oid}");
                told["actions"] = json!({ "upload": { "href": href, "header": {} } });
            }
            told
        };
        let objects: Vec<Value> = objects.iter().map(told).collect();
        answer(&json!({ "transfer": "basic", "objects": objects }))
    }
}

fn told(path: &str, held: &Held) -> Value {
    let mut told = json!({
        "type": "file", "path": path, "size": held.bytes.len(), "oid": git(&held.bytes),
    });
    if held.large {
        told["lfs"] = json!({
            "oid": sha256(&held.bytes), "size": held.bytes.len(), "pointerSize": 130,
        });
    }
    told
}

/// Pages of a thousand, as the public hub has them.
fn tree(at: &Commit, folder: &str, url: &str, request: &Request) -> Response {
    let own = match folder {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let all: Vec<Value> = { at.files.iter() }
        .filter(|(path, _)| path.starts_with(&own))
        .map(|(path, held)| told(path, held))
        .collect();
    if all.is_empty() && !folder.is_empty() {
        return error(404, "EntryNotFound");
    }
    let from: usize = { request.query.get("cursor") }
        .and_then(|cursor| cursor.parse().ok())
        .unwrap_or(0);
    let page: Vec<Value> = all.iter().skip(from).take(1000).cloned().collect();
    let mut response = answer(&page.into());
    if from + 1000 < all.len() {
        let next = format!(
            "{url}{}?recursive=true&cursor={}",
            request.path,
            from + 1000
        );
        response = response.with("link", format!("<{next}>; rel=\"next\""));
    }
    response
}

/// Asked with JSON by some clients and with a form by others.
fn infos(at: &Commit, request: &Request) -> Value {
    let body = String::from_utf8_lossy(&request.body);
    let paths: Vec<String> = match serde_json::from_str::<Value>(&body) {
        Ok(body) => { body["paths"].as_array().into_iter().flatten() }
            .filter_map(|path| Some(path.as_str()?.to_owned()))
            .collect(),
        Err(_) => { body.split('&') }
            .filter_map(|pair| Some(super::http::spaced(pair.strip_prefix("paths=")?)))
            .collect(),
    };
    let found = paths
        .iter()
        .filter_map(|path| Some(told(path, at.files.get(path)?)));
    found.collect()
}
