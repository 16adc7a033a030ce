//! Errors of remote stores, in words a reader can act on.
//!
//! Nothing from a server's error pages is repeated, except its one-word code: they may contain what
//! was sent to the server, signatures and tokens included.

use crate::error::{Error, RemoteErrorKind};

/// Help about the credentials of one kind of store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login {
    /// The sources of credentials, and the way to make new ones.
    pub(super) how: &'static str,
}

/// Codes by which services say that credentials were good once.
const EXPIRED: [&str; 5] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidToken",
];

/// The error for an answer of `status` to a request to `place`; `code` is what the service calls
/// it. `attempts` is the number of requests.
pub(super) fn refused(
    place: &str,
    (status, code): (u16, Option<&str>),
    attempts: usize,
    login: Login,
) -> Error {
    let name = code.map_or(String::new(), |code| format!(" {code}"));
    let how = login.how;
    let times = match attempts {
        0 | 1 => String::new(),
        n => format!(", asked {n} times"),
    };
    let (kind, why) = match (status, code) {
        (_, Some(code)) if EXPIRED.contains(&code) => (
            RemoteErrorKind::Credentials,
            format!("the credentials have expired ({status}{name}); {how}"),
        ),
        (_, Some("RequestTimeTooSkewed")) => (
            RemoteErrorKind::Clock,
            format!("this machine's clock is wrong ({status}{name}); set it and try again"),
        ),
        (401, _) => (
            RemoteErrorKind::Credentials,
            format!("the credentials are missing, wrong or expired ({status}{name}); {how}"),
        ),
        (403, _) => (
            RemoteErrorKind::Denied,
            format!(
                "access is denied ({status}{name}): the credentials are wrong, have expired or do \
                 not permit this; {how}"
            ),
        ),
        (404, _) => (
            RemoteErrorKind::Missing,
            format!("there is no such place ({status}{name}); make it first, or check the address"),
        ),
        (429, _) | (503, Some("SlowDown" | "ServerBusy")) => (
            RemoteErrorKind::Busy,
            format!("too many requests ({status}{name}{times}); wait a while and repeat"),
        ),
        (500.., _) => (
            RemoteErrorKind::Failed,
            format!("the server failed ({status}{name}{times}); repeat it later"),
        ),
        _ => (
            RemoteErrorKind::Other,
            format!("the server refused ({status}{name})"),
        ),
    };
    remote(place, kind, why)
}

pub(super) fn remote(place: &str, kind: RemoteErrorKind, why: impl Into<String>) -> Error {
    Error::Remote {
        place: place.to_owned(),
        kind,
        why: why.into(),
    }
}

pub(super) fn unreachable(place: &str, why: &str) -> Error {
    let why = format!("cannot be reached ({why}); check the network and the endpoint");
    remote(place, RemoteErrorKind::Unreachable, why)
}

pub(super) fn truncated(place: &str, key: &str) -> Error {
    let why = format!("`{key}` arrived incomplete, every time it was asked for; repeat it later");
    remote(place, RemoteErrorKind::Truncated, why)
}

pub(super) fn offline(place: &str, what: &str) -> Error {
    let why = format!("{what} is not in the cache, and nothing is fetched offline");
    remote(place, RemoteErrorKind::Offline, why)
}

/// A service's own name for an error, from the XML it answers with; only a plain word.
pub(super) fn code(body: &str) -> Option<&str> {
    let rest = body.split_once("<Code>")?.1;
    let word = rest.split_once("</Code>")?.0.trim();
    let plain = word.len() <= 64 && word.chars().all(|c| c.is_ascii_alphanumeric());
    (plain && !word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: Login = Login { how: "log in" };

    #[test]
    fn every_answer_has_words_of_its_own() {
        for (status, code, kind, says) in [
            (401, None, RemoteErrorKind::Credentials, "log in"),
            (
                403,
                Some("AccessDenied"),
                RemoteErrorKind::Denied,
                "403 AccessDenied",
            ),
            (
                400,
                Some("ExpiredToken"),
                RemoteErrorKind::Credentials,
                "expired",
            ),
            (
                403,
                Some("RequestTimeTooSkewed"),
                RemoteErrorKind::Clock,
                "clock",
            ),
            (
                404,
                Some("NoSuchBucket"),
                RemoteErrorKind::Missing,
                "make it first",
            ),
            (429, None, RemoteErrorKind::Busy, "asked 5 times"),
            (503, Some("SlowDown"), RemoteErrorKind::Busy, "wait"),
            (500, None, RemoteErrorKind::Failed, "later"),
            (418, None, RemoteErrorKind::Other, "418"),
        ] {
            let error = refused("s3://b", (status, code), 5, LOGIN);
            let text = error.to_string();
            assert!(
                text.starts_with("s3://b: ") && text.contains(says),
                "{text}"
            );
            assert!(matches!(error, Error::Remote { kind: k, .. } if k == kind));
        }
    }

    #[test]
    fn only_a_plain_word_is_taken_from_an_error_page() {
        let page = |code: &str| format!("<Error><Code>{code}</Code><Message>x</Message></Error>");
        assert_eq!(code(&page("NoSuchKey")), Some("NoSuchKey"));
        for bad in ["", "a b", "AKIA:secret", &"x".repeat(65)] {
            assert_eq!(code(&page(bad)), None);
        }
        assert_eq!(code("no xml"), None);
    }
}
