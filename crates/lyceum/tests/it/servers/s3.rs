//! A small bucket that speaks the protocol of S3 and that of Google Cloud Storage, which differ in
//! how a create is asked for; for what real servers cannot be made to do: fail, refuse, lie and
//! break off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::http::{Request, Response, Server, serve};

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, Vec<u8>>,
    faults: Vec<(String, usize, Response)>,
    /// As `faults`, but what was asked for is done.
    losses: Vec<(String, usize, Response)>,
    asked: Vec<String>,
}

/// A running server with one bucket, `lib`.
#[derive(Debug, Clone)]
pub(crate) struct S3 {
    pub(crate) server: Server,
    state: Arc<Mutex<State>>,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let own = state.clone();
        let server = serve(move |_, request| own.lock().unwrap().answer(&request));
        S3 { server, state }
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

    /// The requests since the last call, as `METHOD path`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Changes a byte of every key that holds `part`.
    pub(crate) fn damage(&self, part: &str) -> usize {
        let mut state = self.state.lock().unwrap();
        let keys = state.keys.iter_mut().filter(|(key, _)| key.contains(part));
        keys.map(|(_, bytes)| bytes[0] ^= 1).count()
    }
}

/// An error as S3 words it, with something in it that must not be repeated.
pub(crate) fn error(status: u16, code: &str) -> Response {
    let body = format!(
        "<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>{SECRET}</AWSAccessKeyId>\
         <StringToSign>{SECRET}</StringToSign></Error>"
    );
    Response::new(status, body)
}

/// Stands for every secret a server could repeat; also the key used.
pub(crate) const SECRET: &str = "verysecretkey";

impl State {
    fn answer(&mut self, request: &Request) -> Response {
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
        let answered = self.done(request);
        lost.unwrap_or(answered)
    }

    fn done(&mut self, request: &Request) -> Response {
        let path = request.path.trim_start_matches('/');
        let Some(key) = path
            .strip_prefix("lib")
            .map(|key| key.trim_start_matches('/'))
        else {
            return error(404, "NoSuchBucket");
        };
        let dated = |response: Response| {
            response
                .with("etag", "\"e\"")
                .with("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        };
        match (request.method.as_str(), key) {
            ("GET", "") => self.list(request),
            ("GET" | "HEAD", key) => match self.keys.get(key) {
                Some(bytes) => {
                    let range = request.headers.get("range").and_then(|range| {
                        let from = range.strip_prefix("bytes=")?.split('-').next()?;
                        from.parse::<usize>().ok()
                    });
                    match range {
                        None => dated(Response::new(200, bytes.clone())),
                        Some(from) => {
                            let last = bytes.len() - 1;
                            let range = format!("bytes {from}-{last}/{}", bytes.len());
                            dated(Response::new(206, &bytes[from..])).with("content-range", range)
                        }
                    }
                }
                None => error(404, "NoSuchKey"),
            },
            ("PUT", key) => {
                let creates = request
                    .headers
                    .get("if-none-match")
                    .is_some_and(|v| v == "*")
                    || { request.headers.get("x-goog-if-generation-match") }
                        .is_some_and(|v| v == "0");
                if creates && self.keys.contains_key(key) {
                    return error(412, "PreconditionFailed");
                }
                self.keys.insert(key.to_owned(), request.body.clone());
                dated(Response::new(200, ""))
            }
            ("DELETE", key) => {
                self.keys.remove(key);
                Response::new(204, "")
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    /// Pages of a hundred.
    fn list(&self, request: &Request) -> Response {
        let get = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        let (prefix, after) = (get("prefix"), get("continuation-token"));
        let all: Vec<(&String, &Vec<u8>)> = { self.keys.iter() }
            .filter(|(key, _)| key.starts_with(&prefix) && **key > after)
            .collect();
        let page: String = { all.iter().take(100) }
            .map(|(key, bytes)| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z\
                     </LastModified><ETag>e</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                )
            })
            .collect();
        let next = match all.get(100) {
            Some(_) => format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{}\
                 </NextContinuationToken>",
                all[99].0
            ),
            None => "<IsTruncated>false</IsTruncated>".into(),
        };
        let body = format!("<ListBucketResult><Name>lib</Name>{page}{next}</ListBucketResult>");
        Response::new(200, body)
    }
}
