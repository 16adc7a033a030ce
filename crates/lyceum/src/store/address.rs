//! Addresses of stores, as text.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A parsed address. Parsing touches nothing; opening is separate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder: a plain path, or `local://DIR`.
    Local(PathBuf),
    /// This process's memory: `memory://NAME`.
    Memory(String),
    /// A repository of the Hugging Face hub: `hf://owner/name[@revision][/path]`, or
    /// `hf://datasets/owner/name…` for one of data.
    Hub {
        /// `true` for a repository of data.
        dataset: bool,
        /// Who it belongs to.
        owner: String,
        /// The repository's name.
        name: String,
        /// Branch, tag or commit; `main` when absent.
        revision: Option<String>,
        /// The folder in it; may be empty.
        path: String,
    },
    /// An S3 bucket: `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix of all keys; may be empty.
        prefix: String,
    },
    /// An Azure container: `az://account/container/prefix`.
    Azure {
        /// The storage account.
        account: String,
        /// The container in it.
        container: String,
        /// The prefix of all keys; may be empty.
        prefix: String,
    },
    /// A Google Cloud bucket: `gs://bucket/prefix`.
    Google {
        /// The bucket.
        bucket: String,
        /// The prefix of all keys; may be empty.
        prefix: String,
    },
}

const FORMS: &str = "use a path, local://DIR, memory://NAME, hf://owner/name[@revision][/path] \
                     (hf://datasets/… for data), s3://bucket/prefix, az://account/container/prefix or gs://bucket/prefix";

/// One part of an address: not empty, no dots alone, none of the characters that would end it.
fn part(text: &str) -> bool {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "/?#\\%@:".contains(c);
    !text.is_empty() && text != "." && text != ".." && !text.contains(bad)
}

/// A prefix without its last slash; every part of it must be one.
fn prefix(text: &str) -> Option<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let fine = text.is_empty() || text.split('/').all(|p| part(p) && !p.starts_with('.'));
    fine.then(|| text.to_owned())
}

fn two(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or((text, ""))
}

fn bucket(rest: &str) -> Option<(String, String)> {
    let (bucket, rest) = two(rest);
    Some((part(bucket).then(|| bucket.to_owned())?, prefix(rest)?))
}

fn azure(rest: &str) -> Option<Address> {
    let (account, rest) = two(rest);
    let (container, rest) = two(rest);
    (part(account) && part(container)).then_some(())?;
    Some(Address::Azure {
        account: account.to_owned(),
        container: container.to_owned(),
        prefix: prefix(rest)?,
    })
}

fn hub(rest: &str) -> Option<Address> {
    let (dataset, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (owner, rest) = two(rest);
    let (name, rest) = two(rest);
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    (part(owner) && part(name) && revision.is_none_or(part)).then_some(())?;
    Some(Address::Hub {
        dataset,
        owner: owner.to_owned(),
        name: name.to_owned(),
        revision: revision.map(ToOwned::to_owned),
        path: prefix(rest)?,
    })
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the forms there are.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = match text.split_once("://") {
            None if text.is_empty() => return Err(bad(text)),
            None => return Ok(Address::Local(text.into())),
            Some(split) => split,
        };
        let found = match scheme {
            "local" if !rest.is_empty() => Some(Address::Local(rest.into())),
            "memory" => part(rest).then(|| Address::Memory(rest.to_owned())),
            "hf" => hub(rest),
            "s3" => bucket(rest).map(|(bucket, prefix)| Address::S3 { bucket, prefix }),
            "gs" => bucket(rest).map(|(bucket, prefix)| Address::Google { bucket, prefix }),
            "az" => azure(rest),
            _ => None,
        };
        found.ok_or_else(|| bad(text))
    }
}

/// The error for a malformed address; parts that may contain a user, a password or a signature are
/// not repeated.
fn bad(text: &str) -> Error {
    let (shown, why) = match text.split_once("://") {
        Some((scheme, rest)) if rest.contains([':', '?']) => (
            format!("{scheme}://…"),
            " (credentials do not belong in it)",
        ),
        _ => (text.to_owned(), ""),
    };
    Error::invalid(format!("`{shown}` is not an address{why}; {FORMS}"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = |path: &str| match path.is_empty() {
            true => String::new(),
            false => format!("/{path}"),
        };
        match self {
            Address::Local(path) => write!(f, "{}", path.display()),
            Address::Memory(name) => write!(f, "memory://{name}"),
            Address::Hub {
                dataset,
                owner,
                name,
                revision,
                path,
            } => {
                let kind = if *dataset { "datasets/" } else { "" };
                let at = revision.as_ref().map(|r| format!("@{r}"));
                let at = at.unwrap_or_default();
                write!(f, "hf://{kind}{owner}/{name}{at}{}", slash(path))
            }
            Address::S3 { bucket, prefix } => write!(f, "s3://{bucket}{}", slash(prefix)),
            Address::Google { bucket, prefix } => write!(f, "gs://{bucket}{}", slash(prefix)),
            Address::Azure {
                account,
                container,
                prefix,
            } => write!(f, "az://{account}/{container}{}", slash(prefix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, again) in [
            ("experts", "experts"),
            ("/data/lib", "/data/lib"),
            ("./a b", "./a b"),
            ("local:///data/lib", "/data/lib"),
            ("memory://scratch", "memory://scratch"),
            ("hf://owner/name", "hf://owner/name"),
            ("hf://owner/name@v1/sub/dir/", "hf://owner/name@v1/sub/dir"),
            ("hf://datasets/o/n@main/data", "hf://datasets/o/n@main/data"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("gs://bucket/é", "gs://bucket/é"),
            ("az://account/container/a", "az://account/container/a"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), again);
            assert_eq!(Address::parse(again).unwrap(), address);
        }
        assert_eq!(
            Address::parse("hf://o/n@r/p/q").unwrap(),
            Address::Hub {
                dataset: false,
                owner: "o".into(),
                name: "n".into(),
                revision: Some("r".into()),
                path: "p/q".into()
            }
        );
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_forms() {
        for bad in [
            "",
            "ftp://host/x",
            "local://",
            "memory://",
            "memory://a/b",
            "s3://",
            "s3:///key",
            "s3://bucket/../other",
            "s3://bucket//x",
            "s3://key:secret@bucket/x",
            "s3://bucket/x?y=1",
            "az://account",
            "az://account/",
            "hf://owner",
            "hf://datasets/owner",
            "hf://owner/name@",
            "hf://owner/name@a@b",
            "gs://bucket/.hidden",
        ] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(error.contains("s3://bucket/prefix"), "{bad}: {error}");
        }
        for secret in [
            "s3://key:wJalr/SECRET@bucket/x",
            "az://account/container?sig=SECRET",
            "https://user:SECRET@host/x",
            "gs://bucket:SECRET",
        ] {
            let error = Address::parse(secret).unwrap_err().to_string();
            assert!(!error.contains("SECRET"), "{error}");
            assert!(error.contains("credentials do not belong"), "{error}");
        }
    }
}
