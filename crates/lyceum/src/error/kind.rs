//! The kind of an error, found through context, for code that decides by it.

use super::Error;

/// The kind of an [`Error`], whatever context and hints are around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing of this name exists.
    NotFound,
    /// The name is taken.
    Exists,
    /// A value given cannot be used.
    Invalid,
    /// Two things do not belong together.
    Mismatch,
    /// Made over other weights of the architecture of the base opened.
    OtherBase,
    /// An artifact is missing or stale.
    Underived,
    /// Another writer changed the same thing first.
    Conflict,
    /// The operating system refused.
    Io,
    /// The content of a file is not what its format demands.
    Format,
    /// A remote place refused, failed or could not be reached.
    Remote,
    /// A tensor computation failed.
    Tensor,
    /// Stopped on request.
    Stopped,
}

impl Error {
    /// Returns the error without the context and hints around it.
    pub fn root(&self) -> &Error {
        match self {
            Error::At { source, .. } => source.root(),
            Error::Hinted(hinted) => hinted.error.root(),
            other => other,
        }
    }

    /// Returns the kind of the error, found through context and hints.
    ///
    /// ```
    /// use lyceum::{Context, Error, ErrorKind};
    ///
    /// let missing = Error::not_found("expert", "boolqq", ["boolq"]);
    /// let error = Err::<(), _>(missing).context(|| "opening".into()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotFound);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Exists { .. } => ErrorKind::Exists,
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Mismatch(_) => ErrorKind::Mismatch,
            Error::OtherBase { .. } => ErrorKind::OtherBase,
            Error::Underived { .. } => ErrorKind::Underived,
            Error::Conflict(_) => ErrorKind::Conflict,
            Error::Io { .. } => ErrorKind::Io,
            Error::Format { .. } => ErrorKind::Format,
            Error::Remote { .. } => ErrorKind::Remote,
            Error::Tensor(_) => ErrorKind::Tensor,
            Error::Stopped(_) => ErrorKind::Stopped,
            Error::At { source, .. } => source.kind(),
            Error::Hinted(hinted) => hinted.error.kind(),
        }
    }
}
