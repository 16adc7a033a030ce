//! One error type, with variants named by what the reader can do about them.
//!
//! `Display` never repeats its source; doors print the chain ([`chain`]) and word the hints
//! ([`Error::hints`]). Messages name no flag of a command and no command of Lyceum's.

mod hint;
mod kind;

pub use hint::{Hint, Hinted};
pub use kind::ErrorKind;

use std::path::{Path, PathBuf};

/// Everything that can go wrong in Lyceum.
///
/// ```
/// use lyceum::{Error, ErrorKind};
///
/// let error = Error::not_found("task", "boolqq", ["boolq", "copa"]);
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert_eq!(error.to_string(), "task `boolqq` not found; did you mean boolq?");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A thing asked for by name is not there; `near` holds the closest names that are.
    #[error("{kind} `{name}` not found{}", nearest(.near))]
    NotFound {
        /// The kind of thing looked for: "expert", "task", "file", ...
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The nearest names that exist, best first; may be empty.
        near: Vec<String>,
    },
    /// A thing is already there and was not to be replaced.
    #[error("{kind} `{name}` already exists")]
    Exists {
        /// The kind of thing that exists.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A value the user gave cannot be used; the text says why and what to do.
    #[error("{0}")]
    Invalid(String),
    /// Two things that must belong together do not: shapes, fingerprints, widths.
    #[error("{0}")]
    Mismatch(String),
    /// An expert or a saved model was made over other weights than those of the base opened, which
    /// has the same architecture; a base that accepts such experts ([`BaseMatch::Family`]) takes
    /// it.
    ///
    /// [`BaseMatch::Family`]: crate::expert::BaseMatch
    #[error(
        "{made}, which has other weights of the same architecture than the base opened ({opened})"
    )]
    OtherBase {
        /// A clause that names the expert and the base it was made over.
        made: String,
        /// Name and fingerprint of the base opened.
        opened: String,
    },
    /// A router needs an artifact that is missing or stale; [`Hint::Derive`] makes it.
    #[error("{what}")]
    Underived {
        /// A clause that says what is missing or stale.
        what: String,
        /// The address of the library.
        library: String,
        /// The kind of artifact: `arrow`, `phatgoose`.
        kind: String,
    },
    /// Somebody else changed the same thing first.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The operating system said no.
    #[error("{path}")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file's content is not what its format demands.
    #[error("{path}: {why}")]
    Format {
        /// The file (or store key) concerned.
        path: String,
        /// A description of the defect.
        why: String,
    },
    /// A remote place refused, failed or could not be reached.
    #[error("{place}: {why}")]
    Remote {
        /// The address of the place.
        place: String,
        /// The kind of failure.
        kind: RemoteErrorKind,
        /// A description of the failure, with a remedy.
        why: String,
    },
    /// A tensor computation failed.
    #[error("tensor computation failed")]
    Tensor(#[from] candle_core::Error),
    /// Somebody asked a long work to stop, and it did: the text says what was kept and how to go
    /// on.
    #[error("{0}")]
    Stopped(String),
    /// An error with the place where it happened.
    #[error("{context}")]
    At {
        /// The place, or the activity.
        context: String,
        /// The underlying error.
        source: Box<Error>,
    },
    /// An error with what helps against it.
    #[error(transparent)]
    Hinted(Hinted),
}

/// Kinds of failures of remote places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// Credentials are missing, wrong or expired.
    Credentials,
    /// They do not permit it.
    Denied,
    /// There is no such bucket, container or repository.
    Missing,
    /// Too many requests, also after waiting.
    Busy,
    /// The server failed, also when asked again.
    Failed,
    /// No connection, or none that lasted.
    Unreachable,
    /// The response was incomplete, on every attempt.
    Truncated,
    /// This machine's clock is too far off.
    Clock,
    /// Nothing is fetched offline, and it is not in the cache.
    Offline,
    /// Anything else.
    Other,
}

/// The result of anything in Lyceum that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn nearest(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(", ")),
    }
}

impl Error {
    /// A [`Error::NotFound`] that names the up to three nearest of `names`.
    pub fn not_found<'a>(
        kind: &'static str,
        name: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut near: Vec<(f64, &str)> = names
            .into_iter()
            .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
            .filter(|(likeness, _)| *likeness > 0.7)
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let near = near
            .into_iter()
            .take(3)
            .map(|(_, name)| name.to_owned())
            .collect();
        Error::NotFound {
            kind,
            name: name.to_owned(),
            near,
        }
    }

    /// Returns this error and its causes as [`chain`] writes them.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// An [`Error::Io`] about `path`; a missing file becomes [`Error::NotFound`].
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref();
        if source.kind() == std::io::ErrorKind::NotFound {
            let name = path.display().to_string();
            return Error::NotFound {
                kind: "file",
                name,
                near: Vec::new(),
            };
        }
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// An [`Error::Format`] about the file or key `path`.
    pub fn format(path: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Error::Format {
            path: path.to_string(),
            why: why.to_string(),
        }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(why: impl Into<String>) -> Self {
        Error::Invalid(why.into())
    }
}

/// Returns `error` and all its causes in one line, `outermost: inner: innermost`. A cause that the
/// text repeats already is left out, and so are the frames of a backtrace that a cause carries.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let cause = error.to_string();
        if !text.is_empty() && text.contains(&cause) {
            continue;
        }
        text += if text.is_empty() { "" } else { ": " };
        // candle adds a backtrace to its messages when asked for one.
        let lines = { cause.lines() }.take_while(|line| !line.trim_start().starts_with("0:"));
        text += &lines.collect::<Vec<_>>().join("\n  ");
    }
    text
}

/// Adds where an error happened.
///
/// ```
/// use lyceum::{Context, Error, Result};
///
/// let read: Result<()> = Err(Error::invalid("rank must be at least 1"));
/// let error = read.context(|| "the recipe a.toml".to_owned()).unwrap_err();
/// assert_eq!(error.chain(), "the recipe a.toml: rank must be at least 1");
/// ```
pub trait Context<T> {
    /// Wraps an error with `context`, computed only when there is one.
    ///
    /// # Errors
    /// The same error, inside [`Error::At`].
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::At {
            context: context(),
            source: Box::new(error.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_offered() {
        let error = Error::not_found("expert", "boolqq", ["boolq", "quoref", "squad"]);
        assert_eq!(
            error.to_string(),
            "expert `boolqq` not found; did you mean boolq?"
        );
    }

    #[test]
    fn a_chain_repeats_nothing_and_leaves_backtraces_out() {
        let traced = candle_core::Error::Msg("no memory\n   0: frame\n   1: frame".into());
        let error = Err::<(), Error>(traced.into()).context(|| "training".into());
        let text = error.unwrap_err().chain();
        assert_eq!(text, "training: tensor computation failed: no memory");
        let twice = Err::<(), _>(Error::invalid("bad")).context(|| "so bad".into());
        assert_eq!(twice.unwrap_err().chain(), "so bad");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert!(matches!(
            Error::io("x", missing),
            Error::NotFound { kind: "file", .. }
        ));
    }
}
