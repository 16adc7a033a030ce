//! Talking to a Hugging Face hub: who we are, patience, and what its answers mean.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode};

use crate::error::{Error, RemoteErrorKind, Result};
use crate::store::backoff::{Backoff, RETRIES};
use crate::store::remote_error::{self, Login};
use crate::store::{Session, runtime};

const HUB: &str = "https://huggingface.co";

pub(super) const LOGIN: Login = Login {
    how: "set HF_TOKEN to a token that may do this, or run `hf auth login`",
};

/// A hub, and this user's token for it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(super) endpoint: String,
    token: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        write!(f, "Client({})", self.endpoint)
    }
}

/// Returns `true` if the variable `name` switches something on, as the hub's own tools read it.
fn on(session: &Session, name: &str) -> bool {
    let value = session.var(name).unwrap_or_default().to_uppercase();
    matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// Returns `true` if the hub may not be asked in `session`.
pub(in crate::store) fn offline(session: &Session) -> bool {
    session.offline() || on(session, "HF_HUB_OFFLINE")
}

/// The token among the variables of `session`, or in the file the hub's own tools keep.
fn token(session: &Session) -> Option<String> {
    let var = |name: &str| session.var(name);
    if let Some(token) = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
        return Some(token.trim().to_owned());
    }
    if on(session, "HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    let path = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
        let cache = || {
            let base = var("XDG_CACHE_HOME").map(PathBuf::from);
            base.or_else(|| Some(session.home()?.join(".cache")))
        };
        let home = var("HF_HOME").map(PathBuf::from);
        Some(
            home.or_else(|| Some(cache()?.join("huggingface")))?
                .join("token"),
        )
    })?;
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

impl Client {
    /// The hub that `HF_ENDPOINT` of `session` names, or the public one.
    pub(crate) fn new(session: &Session) -> Result<Self> {
        runtime::ready()?;
        let endpoint = session.var("HF_ENDPOINT").unwrap_or(HUB);
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let why = "HF_ENDPOINT must begin with https:// (or http://)";
            return Err(Error::invalid(why));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("lyceum/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(300))
            .build()
            .map_err(|_| Error::invalid("no encrypted connections can be made here"))?;
        Ok(Client {
            http,
            endpoint,
            token: token(session),
        })
    }

    /// `request` with our token, for requests to the hub itself.
    pub(super) fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The answer to what `make` makes, whatever it is, after waiting out failures.
    pub(super) async fn send(
        &self,
        place: &str,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let mut backoff = Backoff::of_requests();
        loop {
            let begun = Instant::now();
            let answer = make(&self.http).send().await;
            let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            let elapsed_ms = begun.elapsed().as_secs_f64() * 1e3;
            // Addresses may be signed, so they are no part of the event.
            tracing::trace!(place, status, elapsed_ms, "hub request");
            let again = backoff.retries() < RETRIES;
            match answer {
                Ok(answer) if again && passes(answer.status()) => {
                    let pause = backoff.pause(retry_after(answer.headers()));
                    tokio::time::sleep(pause).await;
                }
                Ok(answer) => return Ok(answer),
                Err(error) if again && !error.is_builder() && !error.is_redirect() => {
                    tokio::time::sleep(backoff.pause(None)).await;
                }
                Err(error) => {
                    // The crate's own words hold the address asked, which may be a signed one.
                    let why = match () {
                        () if error.is_timeout() => "no answer in time",
                        () if error.is_connect() => "no connection",
                        () if error.is_redirect() => "it redirects without end",
                        () => "the connection broke",
                    };
                    return Err(remote_error::unreachable(place, why));
                }
            }
        }
    }

    /// As [`Client::send`], but only a success is an answer.
    pub(super) async fn ask(
        &self,
        place: &str,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let answer = self.send(place, make).await?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(refused(place, &answer)),
        }
    }

    /// The whole body of a successful answer, asked for again when it breaks off.
    pub(super) async fn body(
        &self,
        place: &str,
        make: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<(Vec<u8>, HeaderMap)> {
        for _ in 0..3 {
            let answer = self.ask(place, &make).await?;
            let headers = answer.headers().clone();
            if let Ok(bytes) = answer.bytes().await {
                return Ok((bytes.into(), headers));
            }
        }
        Err(remote_error::truncated(place, "an answer"))
    }
}

/// Returns `true` if a failure of this status may be temporary.
fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status.is_server_error()
}

/// Time for which the hub asks to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The hub's code for the error; only a plain word.
pub(super) fn code(headers: &HeaderMap) -> Option<&str> {
    let code = headers.get("x-error-code")?.to_str().ok()?;
    let plain = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then_some(code)
}

/// The error that `answer` is.
pub(super) fn refused(place: &str, answer: &Response) -> Error {
    let (status, code) = (answer.status().as_u16(), code(answer.headers()));
    let attempts = match passes(answer.status()) {
        true => RETRIES as usize + 1,
        false => 1,
    };
    match (status, code) {
        (404, Some("EntryNotFound")) => Error::not_found("file", place, []),
        (401 | 404, Some("RepoNotFound")) => remote_error::remote(
            place,
            RemoteErrorKind::Missing,
            format!(
                "there is no such repository, or it is private and not open to this token; {}",
                LOGIN.how
            ),
        ),
        (404, Some("RevisionNotFound")) => remote_error::remote(
            place,
            RemoteErrorKind::Missing,
            "the repository has no such branch, tag or commit",
        ),
        (403, Some("GatedRepo")) => remote_error::remote(
            place,
            RemoteErrorKind::Denied,
            "this repository is gated: accept its terms on its page of the hub, and set \
             HF_TOKEN",
        ),
        _ => remote_error::refused(place, (status, code), attempts, LOGIN),
    }
}
