//! A library of experts, over any store.
//!
//! `experts/NAME/` is a PEFT folder plus `card.json`, which is written last: an expert without a
//! card does not exist, so a killed add loses nothing. `artifacts/KIND/NAME.safetensors` holds
//! what was derived; `removed/NAME/` what was removed and can be restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::artifact::Artifact;
use crate::error::{Context, Error, Result};
use crate::expert::{Card, Expert};
use crate::name::Name;
use crate::peft;
use crate::store::{self, Put, Store};

const MARKER: &str = "library.json";

/// Named experts and what was derived from them.
#[derive(Debug, Clone)]
pub struct Library {
    store: Arc<dyn Store>,
}

fn key(name: &Name, file: &str) -> String {
    format!("experts/{name}/{file}")
}

fn artifact_key(kind: &Name, expert: &Name) -> String {
    format!("artifacts/{kind}/{expert}.safetensors")
}

impl Library {
    /// Opens the library at `uri`, making it if there is none.
    ///
    /// # Errors
    /// When the place cannot be written.
    pub fn create(uri: &str) -> Result<Self> {
        let store = store::open(uri)?;
        match store.get(MARKER) {
            Ok(_) => {}
            Err(Error::NotFound { .. }) => {
                store.put(MARKER, b"{\"format\":1}\n", Put::Replace)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Library { store })
    }

    /// A new library in an empty store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn within(store: Arc<dyn Store>) -> Result<Self> {
        store.put(MARKER, b"{\"format\":1}\n", Put::New)?;
        Ok(Library { store })
    }

    /// Opens the library at `uri`; a folder of MTTL's is opened for reading only.
    ///
    /// # Errors
    /// When there is none, or its format is newer.
    pub fn open(uri: &str) -> Result<Self> {
        let store = store::open(uri)?;
        if matches!(store.get(MARKER), Err(Error::NotFound { .. }))
            && let Some(foreign) = crate::mttl::open(uri)?
        {
            return Ok(foreign);
        }
        let marker = store.get(MARKER).map_err(|error| match error {
            Error::NotFound { .. } => Error::invalid(format!(
                "there is no library at {uri}; make one with `lyceum train --library {uri}`"
            )),
            other => other,
        })?;
        let marker: Value =
            serde_json::from_slice(&marker).map_err(|e| Error::format(MARKER, e))?;
        if marker.get("format").and_then(Value::as_u64) != Some(1) {
            return Err(Error::format(
                MARKER,
                "a library format this version does not know",
            ));
        }
        Ok(Library { store })
    }

    /// Where it is.
    pub fn uri(&self) -> String {
        self.store.uri()
    }

    /// The experts' names, sorted.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn names(&self) -> Result<Vec<Name>> {
        self.names_under("experts/")
    }

    fn names_under(&self, prefix: &str) -> Result<Vec<Name>> {
        let keys = self.store.list(prefix)?;
        let card = |key: &String| -> Option<String> {
            let rest = key.strip_prefix(prefix)?.strip_suffix(peft::CARD)?;
            Some(rest.strip_suffix('/')?.to_owned())
        };
        let mut names: Vec<Name> = keys
            .iter()
            .filter_map(card)
            .map(|name| Name::new(&name))
            .collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn missing(&self, name: &Name) -> Error {
        let names = self.names().unwrap_or_default();
        Error::not_found("expert", name.as_str(), names.iter().map(Name::as_str))
    }

    /// What is known about `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn card(&self, name: &Name) -> Result<Card> {
        let path = key(name, peft::CARD);
        let bytes = match self.store.get(&path) {
            Err(Error::NotFound { .. }) => return Err(self.missing(name)),
            other => other?,
        };
        serde_json::from_slice(&bytes).map_err(|e| Error::format(path, e))
    }

    /// All cards, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn cards(&self) -> Result<Vec<Card>> {
        self.names()?.iter().map(|name| self.card(name)).collect()
    }

    /// The expert `name`, its weights checked against its card.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names, [`Error::Format`] for damaged files.
    pub fn expert(&self, name: &Name) -> Result<Expert> {
        self.card(name)?;
        peft::decode(&format!("experts/{name}"), |file| {
            self.store.get(&key(name, file))
        })
        .context(|| format!("reading expert `{name}` of {}", self.uri()))
    }

    /// All experts, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read: never a silently shorter library.
    pub fn experts(&self) -> Result<Vec<Expert>> {
        self.names()?.iter().map(|name| self.expert(name)).collect()
    }

    /// Adds an expert. Adding the very same again changes nothing. While one is replaced it has
    /// no card, so a run killed in between loses the old expert but never shows a mixed one.
    ///
    /// # Errors
    /// [`Error::Exists`] for another expert of this name under [`Put::New`].
    pub fn add(&self, expert: &Expert, how: Put) -> Result<()> {
        let name = &expert.card.name;
        let files = peft::encode(expert)?;
        match self.card(name) {
            Ok(card) if card == expert.card => return Ok(()),
            Ok(_) if how == Put::New => {
                return Err(Error::Exists {
                    kind: "expert",
                    name: name.to_string(),
                });
            }
            Ok(_) => self.store.delete(&key(name, peft::CARD))?,
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        for (file, bytes) in files {
            self.store.put(&key(name, file), &bytes, Put::Replace)?;
        }
        Ok(())
    }

    fn move_files(&self, from: &str, to: &str) -> Result<()> {
        let files = [peft::WEIGHTS, peft::CONFIG, peft::CARD];
        for file in files {
            let bytes = self.store.get(&format!("{from}{file}"))?;
            self.store
                .put(&format!("{to}{file}"), &bytes, Put::Replace)?;
        }
        // The card goes first: without it the rest does not count.
        files
            .iter()
            .rev()
            .try_for_each(|file| self.store.delete(&format!("{from}{file}")))
    }

    /// Removes an expert; it can be restored.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the nearest names.
    pub fn remove(&self, name: &Name) -> Result<()> {
        self.card(name)?;
        self.move_files(&format!("experts/{name}/"), &format!("removed/{name}/"))
    }

    /// Brings back a removed expert.
    ///
    /// # Errors
    /// When none of this name was removed, or another took its place.
    pub fn restore(&self, name: &Name) -> Result<()> {
        let removed = self.names_under("removed/")?;
        if !removed.contains(name) {
            let names = removed.iter().map(Name::as_str);
            return Err(Error::not_found("removed expert", name.as_str(), names));
        }
        if self.names()?.contains(name) {
            return Err(Error::Exists {
                kind: "expert",
                name: name.to_string(),
            });
        }
        self.move_files(&format!("removed/{name}/"), &format!("experts/{name}/"))
    }

    /// Renames an expert, its artifacts with it.
    ///
    /// # Errors
    /// When `from` is missing or `to` exists.
    pub fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        let mut expert = self.expert(from)?;
        expert.card.name = to.clone();
        self.add(&expert, Put::New)?;
        for kind in self.kinds()? {
            if let Some(mut artifact) = self.artifact_of(&kind, from)? {
                artifact.expert = to.clone();
                self.put_artifact(&artifact)?;
            }
            self.store.delete(&artifact_key(&kind, from))?;
        }
        for file in [peft::CARD, peft::CONFIG, peft::WEIGHTS] {
            self.store.delete(&key(from, file))?;
        }
        Ok(())
    }

    /// Copies all experts and artifacts to `to`; what is the same there already is left alone.
    /// Returns how many experts were copied.
    ///
    /// # Errors
    /// [`Error::Exists`] when `to` holds another expert under one of the names.
    pub fn copy_to(&self, to: &Library) -> Result<usize> {
        let mut copied = 0;
        for name in self.names()? {
            let expert = self.expert(&name)?;
            if !to.names()?.contains(&name) {
                copied += 1;
            }
            to.add(&expert, Put::New)?;
            for kind in self.kinds()? {
                if let Some(artifact) = self.artifact_of(&kind, &name)? {
                    to.put_artifact(&artifact)?;
                }
            }
        }
        Ok(copied)
    }

    /// The kinds of artifacts there are, sorted.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub fn kinds(&self) -> Result<Vec<Name>> {
        let keys = self.store.list("artifacts/")?;
        let kind = |key: &String| key.split('/').nth(1).map(ToOwned::to_owned);
        let mut kinds: Vec<String> = keys.iter().filter_map(kind).collect();
        kinds.dedup();
        kinds.iter().map(|kind| Name::new(kind)).collect()
    }

    /// Persists an artifact, replacing an older one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_artifact(&self, artifact: &Artifact) -> Result<()> {
        let key = artifact_key(&artifact.kind, &artifact.expert);
        self.store.put(&key, &artifact.encode()?, Put::Replace)
    }

    /// The artifact of `expert`; `None` when it was never derived or the expert has changed since.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn artifact_of(&self, kind: &Name, expert: &Name) -> Result<Option<Artifact>> {
        let key = artifact_key(kind, expert);
        let bytes = match self.store.get(&key) {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let artifact = Artifact::decode(&bytes, &key)?;
        Ok((artifact.made_from == self.card(expert)?.weights).then_some(artifact))
    }

    /// The artifacts of all experts.
    ///
    /// # Errors
    /// [`Error::Underived`] when one is missing, stale, or not made under `spec` if that is given.
    pub fn artifact(&self, kind: &Name, spec: Option<&Value>) -> Result<BTreeMap<Name, Artifact>> {
        let mut all = BTreeMap::new();
        for name in self.names()? {
            let found = self.artifact_of(kind, &name)?;
            match found.filter(|artifact| spec.is_none_or(|spec| artifact.spec == *spec)) {
                Some(artifact) => all.insert(name, artifact),
                None => {
                    let there = self.store.get(&artifact_key(kind, &name)).is_ok();
                    let why = if there {
                        "has changed since its"
                    } else {
                        "has no"
                    };
                    return Err(Error::Underived {
                        what: format!("expert `{name}` {why} {kind} artifact"),
                        command: format!("lyceum derive {} {kind}", self.uri()),
                    });
                }
            };
        }
        Ok(all)
    }

    /// Hex SHA-256 over names and weights.
    ///
    /// # Errors
    /// When a card cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for card in self.cards()? {
            hash.update(format!("{} {};", card.name, card.weights));
        }
        Ok(hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{Lora, LoraConfig};
    use crate::name::Site;
    use crate::rng::Rng;
    use candle_core::{Device, Tensor};

    fn expert(name: &str, seed: u64) -> Expert {
        let mut rng = Rng::new(seed);
        let tensor = |rng: &mut Rng, n, m| {
            Tensor::from_vec(rng.normal(n * m, 1.0), (n, m), &Device::Cpu).unwrap()
        };
        let lora = Lora::new(tensor(&mut rng, 4, 6), tensor(&mut rng, 5, 4), 0.25).unwrap();
        let card = Card {
            name: Name::new(name).unwrap(),
            base: Some("b".into()),
            base_name: "base".into(),
            tasks: vec![Name::new(name).unwrap()],
            lora: LoraConfig::default(),
            origin: serde_json::json!({ "seed": seed }),
            losses: vec![0.1, 1.0 / 3.0],
            weights: String::new(),
        };
        Expert::new(card, BTreeMap::from([(Site::new("h.0.q_proj"), lora)])).unwrap()
    }

    fn artifact(expert: &Expert) -> Artifact {
        let ones = Tensor::ones(6, candle_core::DType::F32, &Device::Cpu).unwrap();
        Artifact {
            kind: Name::new("arrow").unwrap(),
            spec: serde_json::json!({}),
            expert: expert.card.name.clone(),
            made_from: expert.fingerprint().into(),
            vectors: BTreeMap::from([(Site::new("h.0.q_proj"), ones)]),
        }
    }

    fn fresh() -> (tempfile::TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::create(dir.path().join("lib").to_str().unwrap()).unwrap();
        (dir, library)
    }

    #[test]
    fn experts_come_back_bit_equal_and_in_order() {
        let (_dir, library) = fresh();
        for (i, name) in ["b", "a"].into_iter().enumerate() {
            library.add(&expert(name, i as u64), Put::New).unwrap();
        }
        let all = library.experts().unwrap();
        assert_eq!(all[0].card, expert("a", 1).card);
        let values = |e: &Expert| e.loras["h.0.q_proj"].a.to_vec2::<f32>().unwrap();
        assert_eq!(values(&all[1]), values(&expert("b", 0)));
        library.add(&expert("b", 0), Put::New).unwrap();
        assert!(matches!(
            library.add(&expert("b", 9), Put::New),
            Err(Error::Exists { .. })
        ));
        library.add(&expert("b", 9), Put::Replace).unwrap();
        let error = library.expert(&Name::new("bb").unwrap()).unwrap_err();
        assert!(error.to_string().contains("not found"), "{error}");
    }

    #[test]
    fn a_killed_add_loses_nothing_and_a_changed_file_is_refused() {
        let (dir, library) = fresh();
        library.add(&expert("a", 1), Put::New).unwrap();
        let half = dir.path().join("lib/experts/half");
        std::fs::create_dir_all(&half).unwrap();
        std::fs::write(half.join(peft::WEIGHTS), b"ha").unwrap();
        assert_eq!(library.names().unwrap(), [Name::new("a").unwrap()]);
        library.add(&expert("half", 2), Put::New).unwrap();
        let path = dir.path().join("lib/experts/a").join(peft::WEIGHTS);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = library.experts().unwrap_err();
        assert!(matches!(&error, Error::At { source, .. } if source.to_string().contains("card")));
        assert!(error.to_string().contains("expert `a`"), "{error}");
    }

    #[test]
    fn a_missing_or_stale_artifact_names_the_command() {
        let (_dir, library) = fresh();
        let arrow = Name::new("arrow").unwrap();
        library.add(&expert("a", 1), Put::New).unwrap();
        let error = library.artifact(&arrow, None).unwrap_err().to_string();
        assert!(
            error.contains("has no arrow") && error.contains("lyceum derive"),
            "{error}"
        );
        library.put_artifact(&artifact(&expert("a", 1))).unwrap();
        assert_eq!(library.artifact(&arrow, None).unwrap().len(), 1);
        library.add(&expert("a", 2), Put::Replace).unwrap();
        let error = library.artifact(&arrow, None).unwrap_err().to_string();
        assert!(error.contains("has changed"), "{error}");
    }

    #[test]
    fn copies_carry_artifacts_and_repeat() {
        let (_dir, library) = fresh();
        library.add(&expert("a", 1), Put::New).unwrap();
        library.put_artifact(&artifact(&expert("a", 1))).unwrap();
        let to = Library::create("memory://copies").unwrap();
        assert_eq!(library.copy_to(&to).unwrap(), 1);
        assert_eq!(library.copy_to(&to).unwrap(), 0);
        assert_eq!(to.fingerprint().unwrap(), library.fingerprint().unwrap());
        assert_eq!(
            to.artifact(&Name::new("arrow").unwrap(), None)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn removed_experts_can_be_restored_and_renamed_ones_keep_their_artifacts() {
        let (_dir, library) = fresh();
        let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
        library.add(&expert("a", 1), Put::New).unwrap();
        library.put_artifact(&artifact(&expert("a", 1))).unwrap();
        library.remove(&a).unwrap();
        assert!(library.names().unwrap().is_empty() && library.remove(&a).is_err());
        library.restore(&a).unwrap();
        library.rename(&a, &b).unwrap();
        assert_eq!(library.names().unwrap(), std::slice::from_ref(&b));
        let artifacts = library
            .artifact(&Name::new("arrow").unwrap(), None)
            .unwrap();
        assert_eq!(artifacts[&b].expert, b);
    }
}
