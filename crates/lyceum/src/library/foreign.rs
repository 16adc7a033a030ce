//! Experts that other tools keep: a library of MTTL's, a PEFT adapter, a folder of adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Access, Library};
use crate::error::{Error, Result};
use crate::expert::{Expert, TargetBase};
use crate::mttl::{self, Contents, Refused};
use crate::name::Name;
use crate::peft::{self, Beside, Found, Imported};
use crate::store::{Memory, Put, Session, Wanted, fetched_with};

/// Options of an import.
#[derive(Debug, Default)]
pub struct Taking<'a> {
    /// The base they are checked against and bound to; neither when absent.
    pub base: Beside<'a>,
    /// The name of a single adapter; its folder's when absent.
    pub name: Option<Name>,
    /// The cache and the credentials by which a repository of a hub is fetched.
    pub session: Session,
}

/// Reads the experts another tool keeps at `source`: a folder, or a repository of a hub. Those that
/// cannot be taken are in `refused`, and do not keep the others from coming in.
///
/// # Errors
/// When there is nothing of the kind, or a name is given and there are several.
pub fn contents(source: &Path, how: &Taking<'_>) -> Result<Contents> {
    let folder = fetched_with(source, Wanted::Experts, &how.session)?;
    if folder.is_file() {
        let text = format!("{} is a file: name the folder it lies in", source.display());
        return Err(Error::invalid(text));
    }
    let mut contents = match mttl::is_library(&folder) {
        true => library(&folder, how)?,
        false => adapters(source, &folder, how)?,
    };
    bind(&mut contents, how.base.host);
    Ok(contents)
}

fn library(folder: &Path, how: &Taking<'_>) -> Result<Contents> {
    if how.name.is_some() {
        return Err(Error::invalid(format!(
            "{} is a library of MTTL's, whose experts have names: a name is for a single adapter",
            folder.display()
        )));
    }
    let (mut contents, errors) = mttl::scan(folder)?;
    let refused = errors.into_iter().map(|error| match error {
        Error::At { context, source } => refused(context, *source),
        error => refused(folder.display().to_string(), error),
    });
    contents.refused.extend(refused);
    Ok(contents)
}

fn refused(what: String, why: Error) -> Refused {
    Refused {
        what,
        why,
        nameable: false,
    }
}

fn adapters(source: &Path, folder: &Path, how: &Taking<'_>) -> Result<Contents> {
    let mut contents = Contents::default();
    let found = once(peft::find(folder)?, &mut contents.notes);
    if found.is_empty() {
        return Err(Error::invalid(format!(
            "{} is neither a library of MTTL's (`.meta` files) nor a PEFT adapter \
             (adapter_config.json) nor a folder of adapters",
            source.display()
        )));
    }
    if how.name.is_some() && found.len() > 1 {
        return Err(Error::invalid(format!(
            "{} holds {} adapters, and a name is for a single one: import that one's folder",
            source.display(),
            found.len()
        )));
    }
    let twice = doubles(&found);
    for found in found {
        match adapter(found, how, &twice) {
            Ok(Imported { expert, notes }) => {
                let name = &expert.card.name;
                let notes = notes
                    .into_iter()
                    .map(|note| format!("expert `{name}`: {note}"));
                contents.notes.extend(notes);
                contents.experts.push(expert);
            }
            Err(refused) => contents.refused.push(refused),
        }
    }
    contents
        .experts
        .sort_by(|a, b| a.card.name.cmp(&b.card.name));
    Ok(contents)
}

fn adapter(
    found: Found,
    how: &Taking<'_>,
    twice: &BTreeMap<Name, Vec<PathBuf>>,
) -> Result<Imported, Refused> {
    let what = format!("the PEFT adapter {}", found.dir.display());
    let bad = |why, nameable| Refused {
        what: what.clone(),
        why,
        nameable,
    };
    let name = match &how.name {
        Some(given) if found.nameable => given.clone(),
        _ => found.name.map_err(|why| bad(why, found.nameable))?,
    };
    if let Some(dirs) = twice.get(&name) {
        let others = dirs.iter().filter(|other| **other != found.dir);
        let others: Vec<String> = others.map(|other| other.display().to_string()).collect();
        let why = format!("{} would be called `{name}` too", others.join(", "));
        return Err(bad(Error::invalid(why), true));
    }
    let imported = peft::import_beside(&found.dir, &name, how.base);
    imported.map_err(|why| match why {
        Error::At { source, .. } => bad(*source, false),
        why => bad(why, false),
    })
}

/// Each folder once: a link to one that is there too is a note.
fn once(found: Vec<Found>, notes: &mut Vec<String>) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let mut new = |found: &Found| {
        let new = seen.insert(found.dir.clone());
        if !new {
            notes.push(format!(
                "{} is there under two names: taken once",
                found.dir.display()
            ));
        }
        new
    };
    found.into_iter().filter(|found| new(found)).collect()
}

/// The names that several adapters would have, and whose they are.
fn doubles(found: &[Found]) -> BTreeMap<Name, Vec<PathBuf>> {
    let mut all: BTreeMap<Name, Vec<PathBuf>> = BTreeMap::new();
    for found in found {
        if let Ok(name) = &found.name {
            all.entry(name.clone()).or_default().push(found.dir.clone());
        }
    }
    all.retain(|_, dirs| dirs.len() > 1);
    all
}

/// Binds the experts that fit `host` to it, and refuses the others.
fn bind(contents: &mut Contents, host: Option<&TargetBase>) {
    let Some(host) = host else {
        return;
    };
    let mut refuse = Vec::new();
    let mut fits = |mut expert: Expert| match expert.check_base(host) {
        Ok(()) => {
            if expert.card.base.is_none() {
                expert.record_base(host);
            }
            Some(expert)
        }
        Err(why) => {
            refuse.push(refused(format!("expert `{}`", expert.card.name), why));
            None
        }
    };
    for experts in [&mut contents.experts, &mut contents.removed] {
        *experts = std::mem::take(experts)
            .into_iter()
            .filter_map(&mut fits)
            .collect();
    }
    contents.refused.extend(refuse);
    contents.keep_artifacts();
}

impl Contents {
    /// Adds all of it to `library` as one version, or nothing. Experts marked as deleted become a
    /// version before that, which lists them, so that they can be restored; those whose name a
    /// live one has are left out.
    ///
    /// # Errors
    /// [`Error::Exists`] when the library holds another expert of one of the names.
    pub fn add_to(&self, library: &Library) -> Result<()> {
        let removed = self.lacking(library)?;
        if !removed.is_empty() {
            let mut batch = library.batch()?;
            for expert in &removed {
                batch.add(expert, Put::New)?;
            }
            batch.commit()?;
        }
        let mut batch = library.batch()?;
        for expert in removed {
            batch.remove(&expert.card.name);
        }
        for expert in &self.experts {
            batch.add(expert, Put::New)?;
        }
        for artifact in &self.artifacts {
            batch.put_artifact(artifact)?;
        }
        batch.commit().map(|_| ())
    }

    /// The deleted experts that `library` neither lists nor can restore.
    fn lacking(&self, library: &Library) -> Result<Vec<&Expert>> {
        // Looking at all names costs more the more there are.
        if self.removed.is_empty() {
            return Ok(Vec::new());
        }
        let (live, gone) = (library.names()?, library.removed()?);
        let lacking = |expert: &&Expert| {
            let (name, weights) = (&expert.card.name, expert.fingerprint());
            let there = gone.get(name).is_some_and(|old| old.fingerprint == weights);
            !there && !live.contains(name)
        };
        Ok(self.removed.iter().filter(lacking).collect())
    }
}

/// Adds to `library` what is in `contents` as one version; experts whose names others have there
/// are moved to `refused`.
///
/// # Errors
/// As [`Contents::add_to`].
pub fn take_in(contents: &mut Contents, library: &Library) -> Result<()> {
    while !contents.experts.is_empty() || !contents.removed.is_empty() {
        let error = match contents.add_to(library) {
            Ok(()) => break,
            Err(error) => error,
        };
        let Error::Exists { name, .. } = &error else {
            return Err(error);
        };
        let at = { contents.experts.iter() }.position(|e| e.card.name.as_str() == name);
        let expert = contents.experts.remove(at.ok_or(error)?);
        contents.keep_artifacts();
        contents.refused.push(Refused {
            what: format!("expert `{}`", expert.card.name),
            why: Error::invalid(format!(
                "{} holds {}",
                library.uri(),
                held(&expert, library)
            )),
            nameable: true,
        });
    }
    Ok(())
}

/// Says which expert `library` holds under the name of `expert`.
fn held(expert: &Expert, library: &Library) -> &'static str {
    match library.card(&expert.card.name) {
        Ok(card) if card.weights == expert.card.weights => {
            "these weights under that name, with another card (base, tasks or origin): remove the \
             expert there to import it with this one"
        }
        _ => "another expert of that name",
    }
}

impl Library {
    /// Writes every expert, and what MTTL can use of their artifacts, to the folder `out` as a
    /// library of MTTL's. Returns what was left out, and why.
    ///
    /// # Errors
    /// As [`mttl::write`], or when the library cannot be read.
    pub fn export_mttl(&self, out: &Path) -> Result<Vec<String>> {
        let experts = self.experts()?;
        let mut artifacts = Vec::new();
        for kind in self.kinds()? {
            for expert in &experts {
                artifacts.extend(self.artifact_of(&kind, &expert.card.name)?);
            }
        }
        mttl::write(&experts, &artifacts, out)
    }
}

/// The experts another tool keeps at `uri` as a library for reading, held in this process's
/// memory; `None` when there is nothing of the kind. What MTTL marks as deleted is not in it.
///
/// # Errors
/// When there is but it cannot be read whole.
pub(super) fn open(uri: &str, session: &Session) -> Result<Option<Library>> {
    let path = Path::new(uri.strip_prefix("local://").unwrap_or(uri));
    let local = !uri.contains("://") || uri.starts_with("local://");
    let here = local && (mttl::is_library(path) || path.join(peft::CONFIG).is_file());
    if !here && !uri.starts_with("hf://") {
        return Ok(None);
    }
    let how = Taking {
        base: Beside::default(),
        name: None,
        session: session.clone(),
    };
    let mut contents = contents(path, &how)?;
    if let Some(refused) = contents.refused.pop() {
        return Err(Error::At {
            context: refused.what,
            source: Box::new(refused.why),
        });
    }
    let store = Memory::private(uri);
    let library = Library::create_over(store.clone())?;
    contents.add_to(&library)?;
    Library::within_reach(store, Access::Foreign).map(Some)
}
