//! Advice as data: what helps against an error, for each door to put into its own words.

use std::fmt;

use serde::Serialize;

use super::{Error, RemoteErrorKind};

/// Something that helps against an error. Options are named as the library's settings are
/// (`top_k`); a command line prints `--top-k`, another door its own word.
///
/// ```
/// use lyceum::{Error, Hint};
///
/// let error = Error::invalid("the prompt is too long").hint(Hint::Lower("max_input"));
/// assert_eq!(error.hints(), [Hint::Lower("max_input")]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hint {
    /// Give this option.
    Option(&'static str),
    /// Give this option this value.
    Set {
        /// The option.
        option: &'static str,
        /// The value that works.
        value: &'static str,
    },
    /// Give this option a smaller value.
    Lower(&'static str),
    /// Leave this option out.
    Omit(&'static str),
    /// Derive the artifacts of `kind` of the experts of a library.
    Derive {
        /// The address of the library.
        library: String,
        /// The kind of artifact: `arrow`, `phatgoose`.
        kind: String,
    },
    /// Train experts into a library, which makes it where there is none.
    Train {
        /// The address of the library.
        library: String,
    },
    /// Import the experts of another tool into a library of their own.
    Import {
        /// The folder or address at which the other tool keeps them.
        source: String,
    },
    /// Import the expert together with its base, which records the base in its card.
    ImportWithBase,
    /// Accept experts made over other weights of the base's architecture
    /// ([`BaseMatch::Family`](crate::expert::BaseMatch)).
    OtherBase,
    /// Use a build with this Cargo feature.
    Feature(&'static str),
    /// Work offline, from what is cached.
    Offline,
    /// Go online once, so that it is cached.
    Online,
}

/// An error with hints around it. It reads as the error itself.
#[derive(Debug)]
pub struct Hinted {
    pub(super) error: Box<Error>,
    pub(super) hints: Vec<Hint>,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Error {
    /// Returns the error with `hint` added.
    #[must_use]
    pub fn hint(self, hint: Hint) -> Self {
        let mut hinted = match self {
            Error::Hinted(hinted) => hinted,
            error => Hinted {
                error: Box::new(error),
                hints: Vec::new(),
            },
        };
        hinted.hints.push(hint);
        Error::Hinted(hinted)
    }

    /// Returns everything known to help, found through context, the first first.
    ///
    /// ```
    /// use lyceum::{Error, Hint};
    ///
    /// let error = Error::invalid("top_k 9 exceeds the 3 experts").hint(Hint::Lower("top_k"));
    /// assert_eq!(error.hints(), [Hint::Lower("top_k")]);
    /// assert_eq!(error.to_string(), "top_k 9 exceeds the 3 experts");
    /// ```
    pub fn hints(&self) -> Vec<Hint> {
        match self {
            Error::At { source, .. } => source.hints(),
            Error::Hinted(hinted) => {
                let mut hints = hinted.error.hints();
                hints.extend(hinted.hints.iter().cloned());
                hints
            }
            Error::OtherBase { .. } => vec![Hint::OtherBase],
            Error::Underived { library, kind, .. } => vec![Hint::Derive {
                library: library.clone(),
                kind: kind.clone(),
            }],
            Error::Remote { kind, .. } => match kind {
                RemoteErrorKind::Unreachable => vec![Hint::Offline],
                RemoteErrorKind::Offline => vec![Hint::Online],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Context, ErrorKind};

    #[test]
    fn kinds_and_hints_are_found_through_context_and_each_other() {
        let underived = Error::Underived {
            what: "no arrow".into(),
            library: "lib".into(),
            kind: "arrow".into(),
        };
        let inner = Err::<(), _>(underived.hint(Hint::Online)).context(|| "inside".into());
        let error = inner.context(|| "outside".into()).unwrap_err();
        let error = error.hint(Hint::Lower("top_k"));
        assert_eq!(error.kind(), ErrorKind::Underived);
        assert!(matches!(error.root(), Error::Underived { .. }));
        let derive = Hint::Derive {
            library: "lib".into(),
            kind: "arrow".into(),
        };
        assert_eq!(error.hints(), [derive, Hint::Online, Hint::Lower("top_k")]);
        assert_eq!(error.chain(), "outside: inside: no arrow");
        assert!(Error::invalid("x").hints().is_empty());
    }
}
