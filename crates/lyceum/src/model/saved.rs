//! A routed model as a folder: a library of its experts, and `model.json`, which says which version
//! of that library, which router and which base.
//!
//! The base is not copied. A folder or file is remembered as seen from `model.json`, so that both
//! can be moved together, and as it was called from the root, so that the model alone can be moved.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Model;
use crate::backbone::Base;
use crate::error::{Context, Error, Result};
use crate::expert::BaseMatch;
use crate::library::{Library, Members};
use crate::mix::Mixing;
use crate::name::Name;
use crate::route::Router;

const FILE: &str = "model.json";
/// The format that is written; 1 had neither `base_absolute` nor `library`.
const FORMAT: u32 = 2;

/// The contents of `model.json`, which describes a saved model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    format: u32,
    /// The base as seen from the folder of `model.json`, or its address on a hub; none for the
    /// embedded one.
    base_path: Option<String>,
    /// The base's absolute path when the model was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_absolute: Option<String>,
    base_name: String,
    base_fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_family: Option<String>,
    /// Rule that combines the experts' outputs.
    pub mixing: Mixing,
    /// The router.
    pub spec: Router,
    /// The experts it routes over; all of its library where an older version did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    experts: Option<Vec<Name>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    library: Option<Pinned>,
}

/// The experts that were saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinned {
    /// The version of the library in the folder.
    version: u64,
    /// Digest of the inputs of the router's mixture ([`Router::inputs`]).
    inputs: String,
}

impl Saved {
    /// Reads `model.json` in `dir`.
    ///
    /// # Errors
    /// When it is missing, malformed, or of a format this version does not know.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let saved: Saved = crate::file::json(&path.display().to_string(), &bytes)?;
        if !(1..=FORMAT).contains(&saved.format) {
            let text = "a format of saved models this version does not know";
            return Err(Error::format(path.display(), text));
        }
        let checked = saved.spec.check();
        checked.context(|| path.display().to_string())?;
        Ok(saved)
    }

    /// The path of the base of a model saved in `dir`; `None` for the embedded one.
    ///
    /// # Errors
    /// When it is neither where `model.json` says nor where it was.
    pub fn base(&self, dir: &Path) -> Result<Option<PathBuf>> {
        let Some(path) = self.base_path.as_deref() else {
            return Ok(None);
        };
        if crate::store::hub_at(Path::new(path))?.is_some() {
            return Ok(Some(path.into()));
        }
        let mut places = vec![dir.join(path)];
        places.extend(self.base_absolute.as_ref().map(PathBuf::from));
        if self.format == 1 {
            // As it was given, from wherever the command was run.
            places.push(path.into());
        }
        let found = places.iter().find(|place| place.exists());
        if let Some(place) = found {
            return match place.file_name() {
                Some(_) => Ok(Some(place.clone())),
                None => std::fs::canonicalize(place)
                    .map(Some)
                    .map_err(|e| Error::io(place, e)),
            };
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Err(Error::invalid(format!(
            "{} was saved over the base `{}`, which is not there any more: looked for {}; say where \
             it is now",
            dir.join(FILE).display(),
            self.base_name,
            places.join(" and ")
        )))
    }

    /// The experts of a model saved in `dir`, in the version that was saved.
    ///
    /// # Errors
    /// When they cannot be read, or that version was purged and other experts are there now.
    pub fn library(&self, dir: &Path) -> Result<Library> {
        let library = Library::open(uri(dir)?)?;
        let members = match &self.experts {
            Some(names) => Members::Named(names.clone()),
            None => Members::All,
        };
        let Some(pinned) = &self.library else {
            return library.members(&members);
        };
        // Where that version was purged the latest one will do, if its experts are the same.
        let at = library.at(pinned.version).unwrap_or(library);
        let held = at.members(&members).and_then(|at| {
            let same = self.spec.inputs(&at)? == pinned.inputs;
            Ok(same.then_some(at))
        });
        match held {
            Ok(Some(at)) => Ok(at),
            Ok(None) | Err(Error::NotFound { .. }) => Err(Error::Mismatch(format!(
                "{} was saved with version {} of the library in its folder, and the experts or \
                 what the router needs of them are others now; save the model again",
                dir.join(FILE).display(),
                pinned.version
            ))),
            Err(error) => Err(error),
        }
    }

    /// Checks that `base` is the one the model in `dir` was saved over, or has its architecture
    /// where it accepts experts trained over other weights.
    ///
    /// # Errors
    /// [`Error::Mismatch`] naming both.
    pub fn check_base(&self, dir: &Path, base: &Base) -> Result<()> {
        let family = self.base_family.as_ref() == Some(&base.family_fingerprint);
        let accepted = family && base.accepts == BaseMatch::Family;
        match self.base_fingerprint == base.fingerprint || accepted {
            true => Ok(()),
            false if family => Err(Error::OtherBase {
                made: format!(
                    "{} was saved over the base `{}` ({:.12})",
                    dir.join(FILE).display(),
                    self.base_name,
                    self.base_fingerprint
                ),
                opened: format!("{}, {:.12}", base.name, base.fingerprint),
            }),
            false => Err(Error::Mismatch(format!(
                "{} was saved over the base `{}` ({:.12}), not `{}` ({:.12}); open it over that one",
                dir.join(FILE).display(),
                self.base_name,
                self.base_fingerprint,
                base.name,
                base.fingerprint
            ))),
        }
    }
}

/// Options of [`Model::save`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SaveConfig {
    /// Rule that combines the experts' outputs; by default [`Mixing::Outputs`].
    pub mixing: Mixing,
    /// The folder or file of the base, or its address on a hub; by default the embedded base.
    pub base_path: Option<PathBuf>,
}

impl Default for SaveConfig {
    fn default() -> Self {
        SaveConfig {
            mixing: Mixing::Outputs,
            base_path: None,
        }
    }
}

impl SaveConfig {
    /// Sets the rule that combines the experts' outputs.
    #[must_use]
    pub fn mixing(mut self, mixing: Mixing) -> Self {
        self.mixing = mixing;
        self
    }

    /// Sets the folder or file of the base, or its address on a hub; `None` for the embedded base.
    #[must_use]
    pub fn base_path(mut self, path: impl Into<Option<PathBuf>>) -> Self {
        self.base_path = path.into();
        self
    }
}

impl Model {
    /// Saves a routed model as a folder: its experts and artifacts as a library, and
    /// `model.json` (written last). The base itself is not copied but remembered by place and
    /// fingerprint.
    ///
    /// # Errors
    /// When the router's artifact is missing, or the folder cannot be written or already holds
    /// other experts.
    pub fn save(
        dir: &Path,
        library: &Library,
        base: &Base,
        spec: Router,
        config: &SaveConfig,
    ) -> Result<()> {
        let (library, mixing) = (&library.chosen()?, config.mixing);
        spec.mixture(library, &base.host(), mixing)?;
        let own = Library::create(uri(dir)?)?;
        let (held, names) = (own.names()?, library.names()?);
        let others: Vec<&str> = { held.iter() }
            .filter(|name| !names.contains(name))
            .map(Name::as_str)
            .collect();
        if !others.is_empty() {
            let (dir, others) = (dir.display(), others.join(", "));
            return Err(Error::invalid(format!(
                "{dir} already holds other experts ({others}), which the saved model would route \
                 to; choose another folder"
            )));
        }
        library.copy_to(&own)?;
        let own = own.members(&Members::Named(names.clone()))?;
        let inputs = spec.inputs(&own)?;
        if inputs != spec.inputs(library)? {
            let text = format!("{} was changed while it was written", dir.display());
            return Err(Error::Conflict(text));
        }
        let (base_path, base_absolute) = match &config.base_path {
            Some(path) => recorded(dir, path)?,
            None => (None, None),
        };
        let saved = Saved {
            format: FORMAT,
            base_path,
            base_absolute,
            base_name: base.name.clone(),
            base_fingerprint: base.fingerprint.clone(),
            base_family: Some(base.family_fingerprint.clone()),
            mixing,
            spec,
            experts: Some(names),
            library: Some(Pinned {
                version: own.version(),
                inputs,
            }),
        };
        let mut json = serde_json::to_vec_pretty(&saved).map_err(|e| Error::format(FILE, e))?;
        json.push(b'\n');
        crate::file::write(&dir.join(FILE), &json)
    }

    /// The path of the base of the model saved in `dir`; `None` for the embedded one.
    ///
    /// # Errors
    /// When `dir` is not a saved model, or its base is not found.
    pub fn saved_base(dir: &Path) -> Result<Option<PathBuf>> {
        Saved::read(dir)?.base(dir)
    }

    /// Opens the model saved in `dir` over `base`.
    ///
    /// # Errors
    /// When `dir` is not a saved model, was saved over another base, or its experts are not there
    /// as they were saved.
    pub fn open(dir: &Path, base: std::sync::Arc<Base>) -> Result<Self> {
        let saved = Saved::read(dir)?;
        saved.check_base(dir, &base)?;
        Model::routed(base, &saved.library(dir)?, &saved.spec, saved.mixing)
    }
}

fn uri(dir: &Path) -> Result<&str> {
    let uri = dir.to_str();
    uri.ok_or_else(|| Error::invalid("the folder's name is not UTF-8"))
}

/// The base's path as `model.json` in `dir` records it: relative to `dir`, and absolute.
fn recorded(dir: &Path, path: &Path) -> Result<(Option<String>, Option<String>)> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::invalid("the name of the base's folder is not UTF-8"))
    };
    if crate::store::hub_at(path)?.is_some() {
        return Ok((Some(text(path)?), None));
    }
    let canonical = |path: &Path| std::fs::canonicalize(path).map_err(|e| Error::io(path, e));
    // A file that is a link keeps its own name, by which its format is known.
    let absolute = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent == Path::new("") => {
            canonical(Path::new("."))?.join(name)
        }
        (Some(parent), Some(name)) => canonical(parent)?.join(name),
        _ => canonical(path)?,
    };
    let seen = relative(&absolute, &canonical(dir)?);
    Ok(match seen {
        Some(seen) => (Some(text(&seen)?), Some(text(&absolute)?)),
        None => (Some(text(&absolute)?), None),
    })
}

/// `path` as seen from the folder `from`, both absolute; `None` where no way leads there.
fn relative(path: &Path, from: &Path) -> Option<PathBuf> {
    let (to, from): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (path.components().collect(), from.components().collect());
    let shared = to.iter().zip(&from).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return None;
    }
    let up = from[shared..].iter().map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to[shared..].iter().copied()).collect();
    Some(match way.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => way,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_from_folder_to_folder() {
        let way = |to: &str, from: &str| relative(Path::new(to), Path::new(from)).unwrap();
        assert_eq!(way("/w/base", "/w/routed"), Path::new("../base"));
        assert_eq!(way("/w/routed/base", "/w/routed"), Path::new("base"));
        assert_eq!(way("/w", "/w/out/routed"), Path::new("../.."));
        assert_eq!(way("/w", "/w"), Path::new("."));
        assert_eq!(
            way("/data/x.gguf", "/w/routed"),
            Path::new("../../data/x.gguf")
        );
    }
}
