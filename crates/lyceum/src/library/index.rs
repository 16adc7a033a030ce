//! The entries of one version, in shards by the hash of their name.
//!
//! A root lists `2^bits` shards, each an immutable object of a few dozen entries. Adding one
//! expert writes one shard and the root, whatever the size of the library; showing one reads as
//! much; listing all reads every shard, and shards that did not change keep their object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::blob::{Blob, Objects};
use super::entry::Entry;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::peft;
use crate::store::each;

/// More entries per shard than this and the index is split finer.
const FULL: u64 = 64;
/// Fewer than this and it is made coarser; the gap keeps it from going back and forth.
const SPARSE: u64 = 16;
const MOST_BITS: u32 = 16;
/// More than any library holds.
const MOST_ENTRIES: u64 = 1 << 40;

type Shard = BTreeMap<Name, Entry>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    bits: u32,
    entries: u64,
    shards: Vec<Option<Blob>>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    blob: Option<Blob>,
    loaded: OnceLock<Arc<Shard>>,
}

/// The entries of one version; shards are read when needed and then kept.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    bits: u32,
    entries: u64,
    slots: Vec<Slot>,
}

fn place(name: &Name, bits: u32) -> usize {
    let hash = Sha256::digest(name.as_str().as_bytes());
    let top = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    (u64::from(top) >> (32 - bits)) as usize
}

fn json<T: Serialize>(what: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(what).map_err(|e| Error::format("index", e))
}

impl Index {
    pub(crate) fn empty() -> Self {
        Index {
            bits: 0,
            entries: 0,
            slots: vec![Slot::default()],
        }
    }

    pub(crate) fn read(objects: &Objects, root: &Blob) -> Result<Self> {
        let bytes = objects.get(root)?;
        let Root {
            bits,
            entries,
            shards,
        } = serde_json::from_slice(&bytes).map_err(|e| Error::format(root.key(), e))?;
        if bits > MOST_BITS || shards.len() != 1 << bits {
            let why = format!("{} shards for {bits} bits", shards.len());
            return Err(Error::format(root.key(), why));
        }
        // A finer index would have been made long before.
        if entries > FULL << bits && (bits < MOST_BITS || entries > MOST_ENTRIES) {
            let why = format!("{entries} entries in {} shards", shards.len());
            return Err(Error::format(root.key(), why));
        }
        let slot = |blob| Slot {
            blob,
            loaded: OnceLock::new(),
        };
        let slots = shards.into_iter().map(slot).collect();
        Ok(Index {
            bits,
            entries,
            slots,
        })
    }

    fn shard(&self, objects: &Objects, at: usize) -> Result<Arc<Shard>> {
        let slot = &self.slots[at];
        if let Some(shard) = slot.loaded.get() {
            return Ok(shard.clone());
        }
        let shard = match &slot.blob {
            None => Shard::new(),
            Some(blob) => {
                let bad = |why: String| Error::format(blob.key(), why);
                let shard: Shard =
                    serde_json::from_slice(&objects.get(blob)?).map_err(|e| bad(e.to_string()))?;
                if let Some(name) = shard.keys().find(|name| place(name, self.bits) != at) {
                    return Err(bad(format!("`{name}` is in the wrong shard")));
                }
                // A file's name becomes a path where libraries are folders.
                for (name, entry) in &shard {
                    let ours = |file: &&String| peft::FILES.contains(&file.as_str());
                    if let Some(file) = entry.files.keys().find(|file| !ours(file)) {
                        return Err(bad(format!("`{file}` is no file of the expert `{name}`")));
                    }
                }
                shard
            }
        };
        Ok(slot.loaded.get_or_init(|| Arc::new(shard)).clone())
    }

    pub(crate) fn get(&self, objects: &Objects, name: &Name) -> Result<Option<Entry>> {
        let shard = self.shard(objects, place(name, self.bits))?;
        Ok(shard.get(name).cloned())
    }

    /// The entries of `names` that are there; other shards are not read.
    pub(crate) fn some(
        &self,
        objects: &Objects,
        names: &BTreeSet<Name>,
    ) -> Result<BTreeMap<Name, Entry>> {
        let at: BTreeSet<usize> = names.iter().map(|name| place(name, self.bits)).collect();
        let at: Vec<usize> = at.into_iter().collect();
        each(objects.store.width(), &at, |at| self.shard(objects, *at))?;
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(entry) = self.get(objects, name)? {
                found.insert(name.clone(), entry);
            }
        }
        Ok(found)
    }

    /// All entries, in the order of their names.
    pub(crate) fn all(&self, objects: &Objects) -> Result<BTreeMap<Name, Entry>> {
        let at: Vec<usize> = (0..self.slots.len()).collect();
        let shards = each(objects.store.width(), &at, |at| self.shard(objects, *at))?;
        let all: BTreeMap<Name, Entry> = shards
            .iter()
            .flat_map(|shard| shard.iter().map(|(n, e)| (n.clone(), e.clone())))
            .collect();
        if all.len() as u64 != self.entries {
            let why = format!("{} entries where {} were kept", all.len(), self.entries);
            return Err(Error::format("index", why));
        }
        Ok(all)
    }

    /// The names whose entries differ between two versions.
    pub(crate) fn differing(&self, other: &Index, objects: &Objects) -> Result<Vec<Name>> {
        let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
        if self.bits == other.bits {
            for (at, (a, b)) in self.slots.iter().zip(&other.slots).enumerate() {
                if a.blob != b.blob {
                    ours.extend((*self.shard(objects, at)?).clone());
                    theirs.extend((*other.shard(objects, at)?).clone());
                }
            }
        } else {
            (ours, theirs) = (self.all(objects)?, other.all(objects)?);
        }
        let mut names: Vec<Name> = { ours.iter() }
            .filter(|(name, entry)| theirs.get(*name) != Some(entry))
            .map(|(name, _)| name.clone())
            .collect();
        names.extend(theirs.into_keys().filter(|name| !ours.contains_key(name)));
        names.sort();
        Ok(names)
    }

    /// This index with some entries changed (`None`: gone), its objects written in `epoch`.
    pub(crate) fn with(
        &self,
        objects: &Objects,
        changes: &BTreeMap<Name, Option<Entry>>,
        epoch: u64,
    ) -> Result<(Index, Blob)> {
        let mut next = self.clone();
        let mut touched: BTreeMap<usize, Shard> = BTreeMap::new();
        for (name, entry) in changes {
            let at = place(name, self.bits);
            if let std::collections::btree_map::Entry::Vacant(slot) = touched.entry(at) {
                slot.insert((*self.shard(objects, at)?).clone());
            }
            let Some(shard) = touched.get_mut(&at) else {
                continue;
            };
            let was = match entry {
                Some(entry) => shard.insert(name.clone(), entry.clone()),
                None => shard.remove(name),
            };
            let more = next.entries + u64::from(entry.is_some());
            next.entries = more
                .checked_sub(u64::from(was.is_some()))
                .ok_or_else(|| Error::format("index", "fewer entries than its shards hold"))?;
        }
        let shards = 1u64 << self.bits;
        let crowded = next.entries > FULL * shards && self.bits < MOST_BITS;
        let sparse = next.entries < SPARSE * shards && self.bits > 0;
        if crowded || sparse {
            let mut all = self.all(objects)?;
            for (name, entry) in changes {
                match entry {
                    Some(entry) => all.insert(name.clone(), entry.clone()),
                    None => all.remove(name),
                };
            }
            (next, touched) = Index::regrouped(all);
        }
        next.write(objects, touched, epoch)
    }

    fn regrouped(all: BTreeMap<Name, Entry>) -> (Index, BTreeMap<usize, Shard>) {
        let entries = all.len() as u64;
        let mut bits = 0;
        while entries > (FULL << bits) / 2 && bits < MOST_BITS {
            bits += 1;
        }
        let mut shards: BTreeMap<usize, Shard> = BTreeMap::new();
        for (name, entry) in all {
            let shard = shards.entry(place(&name, bits)).or_default();
            shard.insert(name, entry);
        }
        let index = Index {
            bits,
            entries,
            slots: vec![Slot::default(); 1 << bits],
        };
        (index, shards)
    }

    fn write(
        mut self,
        objects: &Objects,
        shards: BTreeMap<usize, Shard>,
        epoch: u64,
    ) -> Result<(Index, Blob)> {
        let shards: Vec<(usize, Shard)> = shards.into_iter().collect();
        let blobs = each(objects.store.width(), &shards, |(_, shard)| {
            match shard.is_empty() {
                true => Ok(None),
                false => objects.put(&json(shard)?, epoch).map(Some),
            }
        })?;
        for ((at, shard), blob) in shards.into_iter().zip(blobs) {
            self.slots[at] = Slot {
                blob,
                loaded: OnceLock::from(Arc::new(shard)),
            };
        }
        let root = Root {
            bits: self.bits,
            entries: self.entries,
            shards: self.slots.iter().map(|slot| slot.blob.clone()).collect(),
        };
        let root = objects.put(&json(&root)?, epoch)?;
        Ok((self, root))
    }

    /// The objects that hold the index itself, without its root.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.slots.iter().filter_map(|slot| slot.blob.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry {
            files: BTreeMap::from([(peft::CARD.into(), Blob::of(&n.to_le_bytes(), 0))]),
            fingerprint: n.to_string(),
            base: Some("b".into()),
            base_name: "b".into(),
            tasks: Vec::new(),
            rank: 4,
            alpha: 1.0,
            added: 0,
            removed: None,
            artifacts: BTreeMap::new(),
        }
    }

    #[test]
    fn any_history_of_changes_gives_what_a_map_gives() {
        let objects = Objects {
            store: crate::store::Memory::private("index"),
        };
        let (mut index, mut plain) = (Index::empty(), BTreeMap::new());
        let mut rng = crate::rng::Rng::new(5);
        let mut finest = 0;
        for round in 0..60 {
            // Grow for 40 rounds, then shrink.
            let mut changes = BTreeMap::new();
            for _ in 0..60 {
                let n = rng.below(2000) as u64;
                let keep = if round < 40 { 9 } else { 1 };
                let entry = (rng.below(10) < keep).then(|| entry(n + round));
                changes.insert(Name::new(&format!("e{n}")).unwrap(), entry);
            }
            for (name, entry) in &changes {
                match entry {
                    Some(entry) => plain.insert(name.clone(), entry.clone()),
                    None => plain.remove(name),
                };
            }
            let before = index.clone();
            let root;
            (index, root) = index.with(&objects, &changes, 0).unwrap();
            finest = finest.max(index.bits);
            let again = Index::read(&objects, &root).unwrap();
            assert_eq!(again.all(&objects).unwrap(), plain, "round {round}");
            assert_eq!(again.entries, plain.len() as u64);
            for name in changes.keys() {
                let found = again.get(&objects, name).unwrap();
                assert_eq!(found.as_ref(), plain.get(name));
            }
            let differing = before.differing(&again, &objects).unwrap();
            assert!(differing.iter().all(|name| changes.contains_key(name)));
            assert!(index.entries <= FULL << index.bits);
        }
        assert!(
            finest >= 4 && index.bits < finest,
            "{finest} {}",
            index.bits
        );
    }
}
