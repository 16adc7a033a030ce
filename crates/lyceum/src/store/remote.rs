//! Buckets and containers: S3, Azure Blob Storage, Google Cloud Storage.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};

use super::backoff::{Backoff, FIRST, LONGEST, RETRIES};
use super::remote_error::{self, Login};
use super::{Put, Store, check_key, runtime};
use crate::error::{Error, Result};

/// Attempts at a download that arrives incomplete.
const DOWNLOADS: usize = 3;

/// Keys are objects of a bucket, below a prefix.
#[derive(Debug)]
pub(super) struct Remote {
    uri: String,
    prefix: String,
    bucket: Arc<dyn ObjectStore>,
    login: Login,
}

/// Retry settings of `object_store`, those of [`Backoff`].
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: FIRST,
            max_backoff: LONGEST,
            base: 2.0,
        },
        max_retries: RETRIES as usize,
        retry_timeout: Duration::from_secs(120),
    }
}

/// Settings of the HTTP client; `plain` allows an endpoint without encryption.
pub(super) fn client(plain: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(Duration::from_secs(10))
        // Big objects take as long as they take, so long as something arrives.
        .with_timeout_disabled()
        .with_read_timeout(Duration::from_secs(300))
}

impl Remote {
    pub(super) fn new(
        uri: String,
        prefix: &str,
        bucket: Arc<dyn ObjectStore>,
        login: Login,
    ) -> Self {
        Remote {
            uri,
            prefix: prefix.to_owned(),
            bucket,
            login,
        }
    }

    fn path(&self, key: &str) -> Result<Path> {
        check_key(key)?;
        let path = match self.prefix.is_empty() {
            true => key.to_owned(),
            false => format!("{}/{key}", self.prefix),
        };
        Path::parse(&path).map_err(|_| Error::invalid(format!("`{key}` is not a store key")))
    }

    /// Does `work` on the bucket, waiting for it.
    fn ask<T: Send + 'static, F>(
        &self,
        key: &str,
        work: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>> + Send + 'static,
    {
        let (uri, key, login) = (self.uri.clone(), key.to_owned(), self.login);
        let work = work(self.bucket.clone());
        runtime::wait(async move {
            work.await
                .map_err(|e| remote_error((&uri, &key), &e, login))
        })
    }
}

/// The error for the object `key` of `place`, without any text of the server.
fn remote_error((place, key): (&str, &str), error: &object_store::Error, login: Login) -> Error {
    if let object_store::Error::AlreadyExists { .. } = error {
        return Error::Exists {
            kind: "key",
            name: key.to_owned(),
        };
    }
    let said = {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &error.to_string();
            cause = error.source();
        }
        text
    };
    let code = remote_error::code(&said);
    // The crate keeps the status in its text alone.
    let number = { said.split("status code: ").nth(1) }.and_then(|rest| rest.get(..3));
    let status = number.and_then(|digits| digits.parse::<u16>().ok());
    let status = status.or(match error {
        object_store::Error::NotFound { .. } => Some(404),
        object_store::Error::PermissionDenied { .. } => Some(403),
        object_store::Error::Unauthenticated { .. } => Some(401),
        _ => None,
    });
    let place_gone = matches!(code, Some("NoSuchBucket" | "ContainerNotFound"));
    match status {
        Some(404) if !place_gone => Error::not_found("file", key, []),
        Some(status) => {
            let attempts = match status {
                429 | 500.. => RETRIES as usize + 1,
                _ => 1,
            };
            remote_error::refused(place, (status, code), attempts, login)
        }
        None => match http_kind(error) {
            Some(object_store::client::HttpErrorKind::Interrupted) => {
                remote_error::truncated(place, key)
            }
            Some(object_store::client::HttpErrorKind::Timeout) => {
                remote_error::unreachable(place, "no answer in time")
            }
            Some(object_store::client::HttpErrorKind::Connect) => {
                remote_error::unreachable(place, "no connection")
            }
            Some(_) => remote_error::unreachable(place, "the connection broke"),
            None => remote_error::unreachable(place, login.how),
        },
    }
}

fn http_kind(error: &object_store::Error) -> Option<object_store::client::HttpErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<object_store::client::HttpError>() {
            return Some(http.kind());
        }
        cause = error.source();
    }
    None
}

/// Returns `true` if a connection ended before its answer came.
fn lost(error: &object_store::Error) -> bool {
    use object_store::client::HttpErrorKind::{Interrupted, Timeout};
    matches!(http_kind(error), Some(Interrupted | Timeout))
}

impl Store for Remote {
    fn uri(&self) -> String {
        self.uri.clone()
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.path(key)?;
        for _ in 0..DOWNLOADS {
            let path = path.clone();
            let got = self.ask(key, |bucket| async move {
                let found = bucket.get(&path).await?;
                let size = found.meta.size;
                // What breaks off after the answer began is asked for again.
                Ok((found.bytes().await.ok(), size))
            });
            let (bytes, size) = got?;
            if let Some(bytes) = bytes.filter(|bytes| bytes.len() as u64 == size) {
                return Ok(bytes.into());
            }
        }
        Err(remote_error::truncated(&self.uri, key))
    }

    fn exists(&self, key: &str) -> Result<bool> {
        let path = self.path(key)?;
        match self.ask(key, |bucket| async move { bucket.head(&path).await }) {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn put(&self, key: &str, bytes: &[u8], how: Put) -> Result<()> {
        let (path, bytes) = (self.path(key)?, PutPayload::from(bytes.to_vec()));
        let mode = match how {
            Put::New => PutMode::Create,
            Put::Replace => PutMode::Overwrite,
        };
        let put = self.ask(key, |bucket| async move {
            let mut backoff = Backoff::of_requests();
            loop {
                let options = PutOptions::from(mode.clone());
                match bucket.put_opts(&path, bytes.clone(), options).await {
                    // The crate repeats no create whose answer was lost: it may have happened.
                    // Then the next answer is that the key exists, and whoever creates here
                    // knows its own bytes again.
                    Err(error) if backoff.retries() < RETRIES && lost(&error) => {
                        tokio::time::sleep(backoff.pause(None)).await;
                    }
                    other => return other,
                }
            }
        });
        match put {
            Ok(_) => Ok(()),
            // Nothing is missing for a put but the place itself.
            Err(Error::NotFound { .. }) => {
                let status = (404, None);
                Err(remote_error::refused(&self.uri, status, 1, self.login))
            }
            Err(error) => Err(error),
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.ask(key, |bucket| async move { bucket.delete(&path).await }) {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        // Places list by whole parts of a key; what follows the last `/` is compared here.
        let folder = prefix.rsplit_once('/').map(|(folder, _)| folder);
        let below = match (self.prefix.as_str(), folder) {
            ("", None) => None,
            (own, None) => Some(own.to_owned()),
            ("", Some(folder)) => Some(folder.to_owned()),
            (own, Some(folder)) => Some(format!("{own}/{folder}")),
        };
        let bad = |_| Error::invalid(format!("`{prefix}` is not the beginning of a key"));
        let below = below.map(Path::parse).transpose().map_err(bad)?;
        let found = self.ask(prefix, |bucket| async move {
            let listed = bucket.list(below.as_ref());
            let keys = listed.map_ok(|meta| String::from(meta.location));
            keys.try_collect::<Vec<String>>().await
        })?;
        let own = match self.prefix.is_empty() {
            true => String::new(),
            false => format!("{}/", self.prefix),
        };
        let mut keys: Vec<String> = { found.iter() }
            .filter_map(|key| key.strip_prefix(&own))
            .filter(|key| key.starts_with(prefix))
            .map(ToOwned::to_owned)
            .collect();
        keys.sort();
        Ok(keys)
    }

    fn width(&self) -> usize {
        16
    }
}
