//! Sessions: the cache, the credentials and the use of the network that opening something takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Cache;

/// Beginnings of the names of the environment's variables that a session keeps.
const KEPT: [&str; 9] = [
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "HF_",
    "HUGGING_FACE_HUB_TOKEN",
    "IDENTITY_ENDPOINT",
    "SERVICE_ACCOUNT",
    "STORAGE_EMULATOR_HOST",
    "XDG_CACHE_HOME",
];

/// Options under which remote places are opened. Values are independent of each other: a process
/// may use several, with other credentials, caches or none.
///
/// Each function that opens something has a form without a session, which is that of
/// [`Session::from_env`], and a form with one, called `…_with`.
///
/// ```
/// use lyceum::library::Library;
/// use lyceum::store::{Cache, Session};
///
/// let session = Session::isolated()
///     .with_offline(true)
///     .with_cache(Cache::new("cache"))
///     .with_hf_token("hf_…");
/// let library = Library::create_with("memory://session", &session)?;
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Clone)]
pub struct Session {
    offline: bool,
    cache: Option<Cache>,
    home: Option<PathBuf>,
    vars: Arc<BTreeMap<String, String>>,
}

impl Default for Session {
    /// That of [`Session::from_env`].
    fn default() -> Self {
        Session::from_env()
    }
}

impl std::fmt::Debug for Session {
    /// Shows the names of the variables and never their values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("offline", &self.offline)
            .field("cache", &self.cache)
            .field("vars", &self.vars.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session that takes nothing from the environment: online, without a cache and without
    /// credentials.
    pub fn isolated() -> Self {
        Session {
            offline: false,
            cache: None,
            home: None,
            vars: Arc::default(),
        }
    }

    /// The session that the environment describes.
    ///
    /// The cache is `LYCEUM_CACHE`, or `lyceum` in `XDG_CACHE_HOME` or `~/.cache`; credentials,
    /// endpoints and `HF_HUB_OFFLINE` are the variables and files of each service's own tools.
    pub fn from_env() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = std::env::home_dir();
        let cache = path("LYCEUM_CACHE").map(PathBuf::from).or_else(|| {
            let base = path("XDG_CACHE_HOME").map(PathBuf::from);
            let base = base.or_else(|| Some(home.as_ref()?.join(".cache")))?;
            Some(base.join("lyceum"))
        });
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let kept = |(name, _): &(String, String)| KEPT.iter().any(|kept| name.starts_with(kept));
        Session {
            offline: false,
            cache: cache.map(Cache::new),
            home,
            vars: Arc::new(std::env::vars_os().filter_map(text).filter(kept).collect()),
        }
    }

    /// Allows or forbids the network; without it remote places are read from the cache.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the cache of remote files and of training checkpoints; `None` keeps neither.
    #[must_use]
    pub fn with_cache(mut self, cache: impl Into<Option<Cache>>) -> Self {
        self.cache = cache.into();
        self
    }

    /// Sets the token of `hf://` addresses, as `HF_TOKEN` does.
    #[must_use]
    pub fn with_hf_token(self, token: &str) -> Self {
        self.with_var("HF_TOKEN", token)
    }

    /// Sets what the environment's variable `name` is for this session, such as `HF_ENDPOINT`,
    /// `AWS_ACCESS_KEY_ID` or `AZURE_STORAGE_ACCOUNT_KEY`; an empty `value` unsets it.
    #[must_use]
    pub fn with_var(mut self, name: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.vars).insert(name.to_owned(), value.to_owned());
        self
    }

    /// Returns `true` if the network is forbidden.
    pub fn offline(&self) -> bool {
        self.offline
    }

    /// The cache of remote files, if there is one.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.as_ref()
    }

    /// The folder of training checkpoints: `training` in the cache.
    pub fn checkpoints(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(Cache::training)
    }

    /// The value of the variable `name`; `None` when it is empty.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        let value = self.vars.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// The variables that begin with `prefix` and are not empty.
    pub(crate) fn vars(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let vars = self.vars.iter();
        let vars = vars.map(|(name, value)| (name.as_str(), value.as_str()));
        vars.filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty())
    }

    /// The folder of the user whose credentials' files are read.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_do_not_share_what_is_set() {
        let one = Session::isolated().with_hf_token("hf_one");
        let two = one.clone().with_hf_token("hf_two").with_offline(true);
        assert_eq!(one.var("HF_TOKEN"), Some("hf_one"));
        assert_eq!(two.var("HF_TOKEN"), Some("hf_two"));
        assert!(two.offline() && !one.offline());
        assert_eq!(two.with_hf_token("").var("HF_TOKEN"), None);
        assert!(one.cache().is_none() && one.checkpoints().is_none());
        let cached = one.with_cache(Cache::new("here"));
        assert_eq!(cached.checkpoints(), Some(PathBuf::from("here/training")));
    }

    #[test]
    fn no_value_of_a_variable_is_shown() {
        let session = Session::isolated().with_var("AWS_SECRET_ACCESS_KEY", "SECRET");
        let shown = format!("{session:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("\"SECRET\""));
    }
}
