//! Checks of a recipe before its first step.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Method, Recipe};
use crate::backbone::Base;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::name::{Name, Site};
use crate::route::Role;

/// The libraries a method is evaluated over; the base needs none.
pub(super) const LIBRARIES: [&str; 2] = ["private", "mbc"];

impl Recipe {
    /// Checks everything that the recipe alone decides: ranges, methods, names.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is wrong.
    pub fn check(&self) -> Result<()> {
        self.train.check()?;
        self.lora.check()?;
        self.eval.check()?;
        self.phatgoose.check()?;
        if self.mbc.k == 0 || !(0.0..1.0).contains(&self.mbc.sparsity) {
            return Err(Error::invalid(
                "mbc: k must be at least 1, and sparsity at least 0 and below 1",
            ));
        }
        let mut tasks = BTreeSet::new();
        if let Some(twice) = self.tasks.iter().find(|task| !tasks.insert(*task)) {
            return Err(Error::invalid(format!("tasks names `{twice}` twice")));
        }
        self.check_methods()?;
        self.check_downstream()
    }

    fn check_methods(&self) -> Result<()> {
        let mut files = BTreeSet::new();
        for (i, method) in self.methods.iter().enumerate() {
            let spec = method.spec()?;
            let equal = |other: &&Method| {
                let same = other.spec().ok() == Some(spec);
                same && (!spec.about().mixes() || other.mixing == method.mixing)
            };
            if let Some(other) = self.methods[..i].iter().find(equal) {
                return Err(Error::invalid(format!(
                    "methods `{}` and `{}` are the same; leave one of them out",
                    other.subject("")?.label(),
                    method.subject("")?.label()
                )));
            }
            if !method.files()?.into_iter().all(|file| files.insert(file)) {
                return Err(Error::invalid(format!(
                    "two methods would write the same files: give `{}` another name",
                    method.subject("")?.label()
                )));
            }
        }
        Ok(())
    }

    fn check_downstream(&self) -> Result<()> {
        let asked = self.methods.iter().find(|method| method.downstream);
        match (&self.downstream, asked) {
            (None, Some(method)) => Err(Error::invalid(format!(
                "method `{}` is to be evaluated downstream, but the recipe names no `downstream`",
                method.subject("")?.label()
            ))),
            (None, None) if self.downstream_limit.is_some() => Err(Error::invalid(
                "`downstream_limit` is set, but the recipe names no `downstream`",
            )),
            (Some(_), None) => Err(Error::invalid(
                "the recipe names `downstream`, but no method has `downstream = true`",
            )),
            (Some(_), Some(_)) if self.downstream_limit == Some(0) => {
                Err(Error::invalid("downstream_limit must be at least 1"))
            }
            (Some(_), Some(_)) => match self.methods.iter().find(|m| m.told() && m.downstream) {
                Some(method) => Err(Error::invalid(format!(
                    "`{}` cannot be evaluated downstream: its questions name no task",
                    method.router
                ))),
                None => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }

    /// The tasks it is about: those it names, or all of `data`.
    pub(super) fn tasks_of(&self, data: &Dataset) -> Vec<Name> {
        match self.tasks.is_empty() {
            true => data.tasks(),
            false => self.tasks.clone(),
        }
    }

    /// Checks it against the base and the data it is to run over.
    ///
    /// # Errors
    /// When a task is unknown or has no rows to learn from or to be tested on, a layer to adapt is
    /// not there, or more experts or clusters are asked for than there are tasks.
    pub fn check_over(&self, base: &Base, data: &Dataset) -> Result<()> {
        let tasks = self.tasks_of(data);
        for split in [Split::Train, Split::Test] {
            data.select(&tasks, split)?;
        }
        let n = tasks.len();
        for method in &self.methods {
            if let Some(k) = method.spec()?.experts_per_token().filter(|k| *k > n) {
                return Err(Error::invalid(format!(
                    "method `{}` asks for {k} experts per token, and there is one expert for each \
                     of {n} tasks; lower top_k",
                    method.subject("")?.label()
                )));
            }
        }
        if self.mbc.k > n {
            return Err(Error::invalid(format!(
                "mbc.k asks for {} clusters of {n} experts; lower it",
                self.mbc.k
            )));
        }
        self.check_targets(base)
    }

    /// Checks that everything `[lora]` names is a layer of `base`.
    fn check_targets(&self, base: &Base) -> Result<()> {
        let sites: Vec<Site> = base.host().sites.into_keys().collect();
        let ends = |site: &Site, path: &str| crate::lora::ends_in(site.as_str(), path);
        let lora = &self.lora;
        if let Some(stray) =
            { lora.targets.iter() }.find(|target| !sites.iter().any(|site| ends(site, target)))
        {
            let layers: BTreeSet<&str> = { sites.iter() }
                .filter_map(|site| site.as_str().rsplit('.').next())
                .collect();
            let layers: Vec<&str> = layers.into_iter().collect();
            return Err(Error::invalid(format!(
                "lora.targets names `{stray}`, and no layer of the base `{}` is called so; there \
                 are {}",
                base.name,
                layers.join(", ")
            )));
        }
        let keys = lora.rank_pattern.keys().chain(lora.alpha_pattern.keys());
        let unused = |key: &&String| {
            let adapted = |site: &&Site| lora.adapts(site) && ends(site, key);
            !sites.iter().any(|site| adapted(&site))
        };
        match { keys }.find(unused) {
            Some(key) => Err(Error::invalid(format!(
                "lora: the pattern `{key}` fits no layer that is adapted"
            ))),
            None => Ok(()),
        }
    }
}

impl Method {
    /// Returns `true` if its router needs the task of each row.
    fn told(&self) -> bool {
        self.spec()
            .is_ok_and(|spec| spec.about().role == Role::Oracle)
    }

    /// The names of its files below `predictions`, as file systems that ignore case see them.
    fn files(&self) -> Result<Vec<String>> {
        let spec = self.spec()?;
        let libraries: &[&str] = match spec.is_base() {
            true => &[""],
            false => &LIBRARIES,
        };
        let mut files = Vec::new();
        for library in libraries {
            let tag = self.subject(library)?.tag().to_lowercase();
            files.extend([format!("{tag}-downstream"), tag]);
        }
        Ok(files)
    }
}

/// The name questions are reported under: that of their file, without its ending. `arc-easy` is
/// the set that is shipped, in either spelling.
pub fn downstream_name(path: &Path) -> String {
    if is_arc_easy(path) {
        return "arc-easy".into();
    }
    let stem = path.file_stem();
    stem.map_or_else(|| "downstream".into(), |s| s.to_string_lossy().into_owned())
}

/// Returns `true` if `path` names the embedded questions rather than a file.
pub fn is_arc_easy(path: &Path) -> bool {
    matches!(path.to_str(), Some("arc-easy" | "arc_easy"))
}
