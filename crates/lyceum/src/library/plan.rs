//! Three-way merge of a write batch: replays its edits on the current head, or reports a conflict.
//!
//! Every edit is judged by the one cell it touches (an expert's files, or one of its artifacts):
//! as it was when the writer looked, and as it is now. Untouched since: the edit holds. Already
//! as wanted: nothing to do, so a job run twice changes nothing. Anything else is a conflict.

use std::collections::BTreeMap;

use super::blob::Objects;
use super::entry::{Derived, Entry};
use super::manifest::{Change, Operation};
use super::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::Put;

/// One wish about one expert.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// These files under this name.
    Put(Box<Entry>, Put),
    /// No longer listed.
    Remove,
    /// Listed again.
    Restore,
    /// As this entry of an older version, artifacts and all.
    RestoreFrom(Box<Entry>, Put),
    /// As this entry, under this name.
    Rename(Name, Box<Entry>),
    /// This artifact of this kind.
    Derive(Name, Derived),
    /// A removed expert given up.
    Forget,
}

/// The changes of a commit.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The new entries; `None` is gone.
    pub(crate) entries: BTreeMap<Name, Option<Entry>>,
    pub(crate) changes: Vec<Change>,
    /// By how many listed experts the version grows.
    pub(crate) grown: i64,
}

/// A version with edits laid over it.
struct Over<'a> {
    snapshot: &'a Snapshot,
    objects: &'a Objects,
    entries: BTreeMap<Name, Option<Entry>>,
}

impl Over<'_> {
    fn get(&self, name: &Name) -> Result<Option<Entry>> {
        match self.entries.get(name) {
            Some(entry) => Ok(entry.clone()),
            None => self.snapshot.index.get(self.objects, name),
        }
    }
}

fn live(entry: Option<&Entry>) -> Option<&Entry> {
    entry.filter(|entry| entry.live())
}

fn same(a: Option<&Entry>, b: Option<&Entry>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same(b),
        _ => false,
    }
}

fn exists(name: &Name) -> Error {
    Error::Exists {
        kind: "expert",
        name: name.to_string(),
    }
}

/// The outcome of one edit.
enum Outcome {
    /// It is so already.
    Nothing,
    /// The expert's new entry.
    Set(Operation, Option<Box<Entry>>),
    /// The expert's entry under a new name.
    Moved(Name, Box<Entry>),
    /// An artifact.
    Derived(Name, Box<Entry>),
}

/// One edit of a writer, the entry it saw (`was`) and the entry there is now (`is`).
struct ThreeWayMerge<'a> {
    name: &'a Name,
    was: Option<Entry>,
    is: Option<Entry>,
    since: u64,
    time: u64,
}

impl ThreeWayMerge<'_> {
    fn conflict(&self) -> Error {
        Error::Conflict(format!(
            "expert `{}` was changed by another writer after version {}; look at it and repeat",
            self.name, self.since
        ))
    }

    fn missing(&self, kind: &'static str) -> Error {
        Error::not_found(kind, self.name.as_str(), [])
    }

    /// The outcome of `edit`, made while looking at the first of two versions, on the second.
    fn outcome(&self, edit: &Edit, (seen, now): (&Over<'_>, &Over<'_>)) -> Result<Outcome> {
        match edit {
            Edit::Put(entry, how) => self.put(entry, *how),
            Edit::Remove => self.remove(),
            Edit::Restore => self.restore(),
            Edit::RestoreFrom(entry, how) => self.restore_from(entry, *how),
            Edit::Rename(to, entry) => self.rename(to, entry, [seen.get(to)?, now.get(to)?]),
            Edit::Derive(kind, derived) => self.derive(kind, derived),
            Edit::Forget => Ok(self.forget()),
        }
    }

    fn put(&self, entry: &Entry, how: Put) -> Result<Outcome> {
        let (was, is) = (live(self.was.as_ref()), live(self.is.as_ref()));
        if is.is_some_and(|is| is.same(entry)) {
            return Ok(Outcome::Nothing);
        }
        if how == Put::New && was.is_some_and(|was| !was.same(entry)) {
            return Err(exists(self.name));
        }
        if !same(was, is) {
            return Err(self.conflict());
        }
        let mut next = entry.clone();
        // A copy keeps the date it has.
        if next.added == 0 {
            next.added = self.time;
        }
        // Artifacts of other weights stay, known to be stale.
        if let Some(before) = &self.is {
            for (kind, derived) in &before.artifacts {
                let kept = next.artifacts.entry(kind.clone());
                kept.or_insert_with(|| derived.clone());
            }
        }
        let did = if is.is_some() {
            Operation::Replaced
        } else {
            Operation::Added
        };
        Ok(Outcome::Set(did, Some(Box::new(next))))
    }

    fn remove(&self) -> Result<Outcome> {
        let was = live(self.was.as_ref()).ok_or_else(|| self.missing("expert"))?;
        let Some(is) = live(self.is.as_ref()) else {
            return Ok(Outcome::Nothing);
        };
        if !is.same(was) {
            return Err(self.conflict());
        }
        let mut next = is.clone();
        next.removed = Some(self.time);
        Ok(Outcome::Set(Operation::Removed, Some(Box::new(next))))
    }

    fn restore(&self) -> Result<Outcome> {
        let was = self.was.as_ref();
        let was = was.ok_or_else(|| self.missing("removed expert"))?;
        if was.live() {
            return Err(exists(self.name));
        }
        match &self.is {
            Some(is) if is.same(was) && is.live() => Ok(Outcome::Nothing),
            Some(is) if is.same(was) => {
                let mut next = is.clone();
                next.removed = None;
                Ok(Outcome::Set(Operation::Restored, Some(Box::new(next))))
            }
            _ => Err(self.conflict()),
        }
    }

    fn restore_from(&self, entry: &Entry, how: Put) -> Result<Outcome> {
        let (was, is) = (live(self.was.as_ref()), live(self.is.as_ref()));
        let as_wanted = |is: &Entry| is.same(entry) && is.artifacts == entry.artifacts;
        if is.is_some_and(as_wanted) {
            return Ok(Outcome::Nothing);
        }
        if how == Put::New && was.is_some_and(|was| !was.same(entry)) {
            return Err(exists(self.name));
        }
        if !same(was, is) {
            return Err(self.conflict());
        }
        Ok(Outcome::Set(
            Operation::Restored,
            Some(Box::new(entry.clone())),
        ))
    }

    fn rename(&self, to: &Name, entry: &Entry, there: [Option<Entry>; 2]) -> Result<Outcome> {
        let [was_there, is_there] = there;
        let (was, is) = (live(self.was.as_ref()), live(self.is.as_ref()));
        let was = was.ok_or_else(|| self.missing("expert"))?;
        let is_there = live(is_there.as_ref());
        if is.is_none() && is_there.is_some_and(|there| there.same(entry)) {
            return Ok(Outcome::Nothing);
        }
        if live(was_there.as_ref()).is_some() {
            return Err(exists(to));
        }
        let untouched = is.is_some_and(|is| is.same(was) && is.artifacts == was.artifacts);
        if !untouched || is_there.is_some() {
            return Err(self.conflict());
        }
        Ok(Outcome::Moved(to.clone(), Box::new(entry.clone())))
    }

    fn derive(&self, kind: &Name, derived: &Derived) -> Result<Outcome> {
        let was = live(self.was.as_ref()).ok_or_else(|| self.missing("expert"))?;
        let Some(is) = live(self.is.as_ref()) else {
            return Err(self.conflict());
        };
        let equal = |a: &Derived, b: &Derived| a.file.same(&b.file) && a.made_from == b.made_from;
        let (before, now) = (was.artifacts.get(kind), is.artifacts.get(kind));
        if now.is_some_and(|now| equal(now, derived)) {
            return Ok(Outcome::Nothing);
        }
        match (before, now) {
            (None, None) => {}
            (Some(before), Some(now)) if equal(before, now) => {}
            _ => {
                return Err(Error::Conflict(format!(
                    "the {kind} artifact of expert `{}` was changed by another writer after \
                     version {}; derive it again",
                    self.name, self.since
                )));
            }
        }
        let mut next = is.clone();
        next.artifacts.insert(kind.clone(), derived.clone());
        Ok(Outcome::Derived(kind.clone(), Box::new(next)))
    }

    fn forget(&self) -> Outcome {
        match &self.is {
            // Only what has stayed removed.
            Some(is) if !is.live() && self.was.as_ref() == Some(is) => {
                Outcome::Set(Operation::Purged, None)
            }
            _ => Outcome::Nothing,
        }
    }
}

impl Plan {
    /// Merges `edits`, made while looking at `base`, into `head` at `time`.
    pub(crate) fn new(
        edits: &[(Name, Edit)],
        (base, head): (&Snapshot, &Snapshot),
        objects: &Objects,
        time: u64,
    ) -> Result<Plan> {
        let over = |snapshot| Over {
            snapshot,
            objects,
            entries: BTreeMap::new(),
        };
        let (mut seen, mut now) = (over(base), over(head));
        let mut plan = Plan::default();
        for (name, edit) in edits {
            let merge = ThreeWayMerge {
                name,
                was: seen.get(name)?,
                is: now.get(name)?,
                since: base.version(),
                time,
            };
            let outcome = merge.outcome(edit, (&seen, &now))?;
            let was_live = merge.is.as_ref().is_some_and(Entry::live);
            let mut change = |operation, to| {
                let expert = name.clone();
                plan.changes.push(Change {
                    operation,
                    expert,
                    to,
                });
            };
            match outcome {
                Outcome::Nothing => {
                    // Later edits of this batch build on what this one found done.
                    seen.entries.insert(name.clone(), merge.is);
                    if let Edit::Rename(to, _) = edit {
                        let there = now.get(to)?;
                        seen.entries.insert(to.clone(), there);
                    }
                    continue;
                }
                Outcome::Set(operation, entry) => {
                    change(operation, None);
                    let is_live = entry.as_ref().is_some_and(|entry| entry.live());
                    plan.grown += i64::from(is_live) - i64::from(was_live);
                    now.entries.insert(name.clone(), entry.map(|e| *e));
                }
                Outcome::Derived(kind, entry) => {
                    change(Operation::Derived, Some(kind));
                    now.entries.insert(name.clone(), Some(*entry));
                }
                Outcome::Moved(to, entry) => {
                    change(Operation::Renamed, Some(to.clone()));
                    now.entries.insert(name.clone(), None);
                    now.entries.insert(to.clone(), Some(*entry));
                    seen.entries.insert(to.clone(), now.get(&to)?);
                }
            }
            seen.entries.insert(name.clone(), now.get(name)?);
        }
        plan.entries = now.entries;
        Ok(plan)
    }
}
