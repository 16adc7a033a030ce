//! A plan of a training into a library: which experts are missing, which exist, and which exist
//! with other settings, so that training would replace them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::feed::Job;
use super::trainer::Trainer;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::expert::Card;
use crate::library::{Entry, Library, Since};
use crate::name::Name;

/// An expert to train and the tasks whose training rows it learns from.
///
/// ```
/// use lyceum::prelude::*;
///
/// let group = TaskGroup::of_task(Name::new("sums")?);
/// assert_eq!((group.name.as_str(), group.tasks.len()), ("sums", 1));
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskGroup {
    /// The expert's name; the order of its data is seeded by it.
    pub name: Name,
    /// The tasks, at least one.
    pub tasks: Vec<Name>,
}

impl TaskGroup {
    /// Returns the group `name` of `tasks`.
    pub fn new(name: Name, tasks: Vec<Name>) -> Self {
        TaskGroup { name, tasks }
    }

    /// Returns the group of one task, which gives the expert its name.
    pub fn of_task(task: Name) -> Self {
        TaskGroup::new(task.clone(), vec![task])
    }
}

/// An expert that is there and was made otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Differing {
    /// The expert.
    pub name: Name,
    /// The differences, each as "its value (now the requested value)".
    pub what: Vec<String>,
}

/// The result of [`Trainer::plan`]: the experts to be trained, and the obstacles.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan<'a> {
    pub(super) trainer: &'a Trainer,
    pub(super) library: Library,
    pub(super) since: Since,
    pub(super) jobs: Vec<Job>,
    /// Tells this training apart from every other; names its checkpoint.
    pub(super) key: Value,
    /// The library's version, which keeps what is replaced.
    pub version: u64,
    /// Experts that are there and are what is asked for.
    pub already: Vec<Name>,
    /// Experts that would be replaced.
    pub differing: Vec<Differing>,
    /// Experts of other bases that would stay beside the new ones, with what their bases are
    /// called.
    pub strangers: Vec<(Name, String)>,
}

impl Trainer {
    /// Compares `groups` with what `library` holds, and checks all settings; trains nothing.
    ///
    /// # Errors
    /// When a setting is out of range, a task has no rows, or an expert is asked for twice.
    pub fn plan(
        &self,
        groups: &[TaskGroup],
        data: &Dataset,
        library: &Library,
    ) -> Result<Plan<'_>> {
        self.config.check()?;
        self.lora.check()?;
        once(groups)?;
        let since = library.now();
        let entries = library.entries()?;
        let origin = self.origin(data);
        let mut plan = Plan {
            trainer: self,
            library: library.clone(),
            since,
            jobs: Vec::new(),
            key: self.key(library, groups, &origin),
            version: library.version(),
            already: Vec::new(),
            differing: Vec::new(),
            strangers: self.strangers(&entries, groups),
        };
        for TaskGroup { name, tasks } in groups {
            if let Some(entry) = entries.get(name) {
                let card = library.card_of(name, entry)?;
                let what = self.differs(&card, tasks, &origin);
                if what.is_empty() {
                    plan.already.push(name.clone());
                    continue;
                }
                let name = name.clone();
                plan.differing.push(Differing { name, what });
            }
            let examples = data.select(tasks, Split::Train)?;
            plan.jobs.push(Job {
                origin: origin.clone(),
                ..Job::new(name.clone(), tasks.clone(), examples)
            });
        }
        Ok(plan)
    }

    /// The provenance of an expert's training; equal origins mean equal experts.
    fn origin(&self, data: &Dataset) -> Value {
        json!({
            "train": self.config,
            "lora": self.lora,
            "data": data.fingerprint(),
            "precision": self.base.precision,
            "by": concat!("lyceum ", env!("CARGO_PKG_VERSION")),
        })
    }

    fn key(&self, library: &Library, groups: &[TaskGroup], origin: &Value) -> Value {
        let groups: Vec<(&Name, &[Name])> = { groups.iter() }
            .map(|group| (&group.name, group.tasks.as_slice()))
            .collect();
        json!({
            "library": library.place(),
            "groups": groups,
            "origin": origin,
            "base": self.base.fingerprint,
            "device": format!("{:?}", self.base.decoder.device().location()),
        })
    }

    /// The experts of other bases that are none of `groups`.
    fn strangers(
        &self,
        entries: &BTreeMap<Name, Entry>,
        groups: &[TaskGroup],
    ) -> Vec<(Name, String)> {
        let other = |entry: &Entry| {
            let base = entry.base.as_ref();
            base.is_some_and(|base| *base != self.base.fingerprint)
        };
        let stays = |name: &Name| !groups.iter().any(|group| group.name == *name);
        let all = entries.iter();
        all.filter(|(name, entry)| stays(name) && other(entry))
            .map(|(name, entry)| (name.clone(), entry.base_name.clone()))
            .collect()
    }

    /// Differences between the making of the expert of `card` and `origin` on `tasks`.
    fn differs(&self, card: &Card, tasks: &[Name], origin: &Value) -> Vec<String> {
        if card.origin == *origin
            && card.tasks == tasks
            && card.base.as_ref() == Some(&self.base.fingerprint)
        {
            return Vec::new();
        }
        let mut what = Vec::new();
        let base = card.base.as_deref();
        if base != Some(&self.base.fingerprint) {
            what.push(format!(
                "base `{}` {:.12} (now `{}` {:.12})",
                card.base_name,
                base.unwrap_or("of no known fingerprint"),
                self.base.name,
                self.base.fingerprint
            ));
        }
        if card.is_merge() {
            what.push("a merge of others".into());
        } else if card.origin.get("train").is_none() {
            what.push("not trained here: how it was made is not known".into());
        } else {
            changed("", &card.origin, origin, &mut what);
        }
        if card.tasks != tasks {
            let list = |tasks: &[Name]| {
                let tasks: Vec<&str> = tasks.iter().map(Name::as_str).collect();
                tasks.join(", ")
            };
            what.push(format!("tasks {} (now {})", list(&card.tasks), list(tasks)));
        }
        what
    }
}

/// Adds what differs between two origins, field by field.
fn changed(path: &str, was: &Value, now: &Value, what: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (was, now) else {
        if was != now {
            let short = |value: &Value| match value {
                Value::String(text) if text.len() > 24 => format!("{text:.12}"),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            what.push(format!("{path} {} (now {})", short(was), short(now)));
        }
        return;
    };
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in keys {
        // The fields of the two groups of settings have names of their own.
        let path = match path {
            "" | "train" | "lora" => key.clone(),
            path => format!("{path}.{key}"),
        };
        let part = |of: &serde_json::Map<String, Value>| of.get(key).cloned().unwrap_or_default();
        changed(&path, &part(a), &part(b), what);
    }
}

/// Refuses what can only be a slip.
fn once(groups: &[TaskGroup]) -> Result<()> {
    let mut names = BTreeSet::new();
    for TaskGroup { name, tasks } in groups {
        if !names.insert(name) {
            return Err(Error::invalid(format!(
                "expert `{name}` is asked for twice"
            )));
        }
        if tasks.is_empty() {
            let text = format!("expert `{name}` has no task to learn from");
            return Err(Error::invalid(text));
        }
        let all: BTreeSet<&Name> = tasks.iter().collect();
        if all.len() < tasks.len() {
            let text = format!("expert `{name}` is given one of its tasks twice");
            return Err(Error::invalid(text));
        }
    }
    if names.is_empty() {
        return Err(Error::invalid("there is no expert to train"));
    }
    Ok(())
}

impl Differing {
    /// The differences in one line.
    pub fn said(&self) -> String {
        self.what.join(", ")
    }
}

impl Plan<'_> {
    /// The names of the experts that would be trained, in their order.
    pub fn missing(&self) -> Vec<&Name> {
        self.jobs.iter().map(|job| &job.name).collect()
    }

    /// Refuses to replace an expert, or to put experts beside those of another base, unless that
    /// was asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the experts, what differs and the version that keeps them.
    pub(super) fn agreed(&self) -> Result<()> {
        if let Some(first) = self.differing.first().filter(|_| !self.trainer.replace) {
            let more = match self.differing.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            return Err(Error::invalid(format!(
                "expert `{}` of {} was made otherwise: {}{more}; training it again would replace \
                 it, which has to be asked for (version {} keeps it)",
                first.name,
                self.library.uri(),
                first.said(),
                self.version
            )));
        }
        // Where nothing is trained nothing is mixed.
        if let Some((name, base)) = self.strangers.first()
            && !self.trainer.mixed_bases
            && !self.jobs.is_empty()
        {
            return Err(Error::invalid(format!(
                "expert `{name}` of {} belongs to another base (`{base}`) than the one to train on \
                 (`{}`); no router takes both, so give these a library of their own",
                self.library.uri(),
                self.trainer.base.name
            )));
        }
        Ok(())
    }
}
