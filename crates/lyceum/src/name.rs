//! Checked identifiers: names of experts, tasks and artifacts, and sites of a backbone.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A checked identifier: 1 to 128 characters, letters, digits, `_`, `-`, `.` and `+`, not
/// starting with a dot. Safe as a file name on every store.
///
/// ```
/// use lyceum::Name;
///
/// assert_eq!(Name::new("boolq")?.as_str(), "boolq");
/// assert!(Name::new("../boolq").is_err());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is empty, too long or holds another character.
    pub fn new(text: &str) -> Result<Self> {
        let allowed = |c: char| c.is_alphanumeric() || "_-.+".contains(c);
        if text.is_empty()
            || text.len() > 128
            || text.starts_with('.')
            || !text.chars().all(allowed)
        {
            return Err(Error::invalid(format!(
                "`{text}` is not a name: use 1 to 128 letters, digits, `_`, `-`, `.` or `+`, \
                 not starting with a dot"
            )));
        }
        Ok(Name(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Name::new(&text)
    }
}

impl std::str::FromStr for Name {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Name::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.into()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// A linear layer that experts may adapt, by the path of its module in the checkpoint:
/// `transformer.h.0.attn.attention.q_proj`.
///
/// ```
/// use lyceum::Site;
///
/// let site = Site::new("transformer.h.0.attn.attention.q_proj");
/// assert_eq!(site.last(), "q_proj");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(Arc<str>);

impl Site {
    /// The site at module path `path`.
    pub fn new(path: impl Into<Arc<str>>) -> Self {
        Site(path.into())
    }

    /// The module path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the path: `q_proj`.
    pub fn last(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or(&self.0)
    }
}

impl Borrow<str> for Site {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["boolq", "cluster_0", "a.b-c+d", "é"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".hidden", "a/b", "..", "a b", "a\\b", "a\0"] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_from_json_is_checked_too() {
        assert!(serde_json::from_str::<Name>("\"../x\"").is_err());
    }
}
