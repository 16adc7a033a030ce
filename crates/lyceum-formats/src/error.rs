//! One error type, with variants named by what a caller can do about them.

use std::fmt::Display;

/// Why a file cannot be read or written. Messages do not name the file: callers know it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what their format demands: the file is damaged, cut off or another one.
    #[error("{0}")]
    Malformed(String),
    /// The format allows it, but this crate does not read it.
    #[error("{0}")]
    Unsupported(String),
    /// Reading it would take far more memory than its size explains.
    #[error("{0}")]
    TooLarge(String),
    /// A value that cannot be converted or written.
    #[error("{0}")]
    Unrepresentable(String),
    /// The operating system could not read the file.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// The result of reading or writing a file.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Unsupported`].
    pub(crate) fn unsupported(why: impl Into<String>) -> Self {
        Error::Unsupported(why.into())
    }

    /// The same error with `place` before its message.
    pub(crate) fn within(self, place: impl Display) -> Self {
        let at = |why: String| format!("{place} {why}");
        match self {
            Error::Malformed(why) => Error::Malformed(at(why)),
            Error::Unsupported(why) => Error::Unsupported(at(why)),
            Error::TooLarge(why) => Error::TooLarge(at(why)),
            Error::Unrepresentable(why) => Error::Unrepresentable(at(why)),
            Error::Io(error) => Error::Io(error),
        }
    }
}

/// Most messages are about malformed files, so these convert to [`Error::Malformed`].
impl From<String> for Error {
    fn from(why: String) -> Self {
        Error::Malformed(why)
    }
}

impl From<&str> for Error {
    fn from(why: &str) -> Self {
        Error::Malformed(why.to_owned())
    }
}
