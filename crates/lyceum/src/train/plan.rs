//! What a training into a library would do: which experts are missing, which are there already,
//! and which were made otherwise, so that training them would replace them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{How, Job};
use crate::backbone::Base;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::expert::Card;
use crate::library::{Entry, Library, Since};
use crate::lora::LoraConfig;
use crate::name::Name;

/// What experts are trained from, and how.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    /// The frozen base.
    pub base: &'a Arc<Base>,
    /// Where their rows come from.
    pub data: &'a Dataset,
    /// Their adapters.
    pub lora: &'a LoraConfig,
    /// How they are optimised.
    pub how: &'a How,
}

/// An expert that is there and was made otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Differing {
    /// The expert.
    pub name: Name,
    /// What differs, each as "what it is (now what is asked for)".
    pub what: Vec<String>,
}

/// What a training would do.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(super) training: Training<'a>,
    pub(super) library: Library,
    pub(super) since: Since,
    pub(super) jobs: Vec<Job>,
    /// Tells this training apart from every other; names its checkpoint.
    pub(super) what: Value,
    /// The library's version, which keeps what is replaced.
    pub version: u64,
    /// Experts that are there and are what is asked for.
    pub already: Vec<Name>,
    /// Experts that would be replaced.
    pub differing: Vec<Differing>,
    /// Experts of other bases that would stay beside the new ones, with what their bases are
    /// called.
    pub strangers: Vec<(Name, String)>,
    /// Whether experts that differ may be replaced.
    pub replace: bool,
    /// Whether experts of other bases may stay beside the new ones.
    pub mixed_bases: bool,
}

/// What an expert remembers about its training; equal origins mean equal experts.
pub fn origin(how: &How, lora: &LoraConfig, data: &Dataset, base: &Base) -> Value {
    json!({
        "train": how,
        "lora": lora,
        "data": data.fingerprint(),
        "precision": base.precision,
        "by": concat!("lyceum ", env!("CARGO_PKG_VERSION")),
    })
}

impl<'a> Training<'a> {
    /// What an expert remembers about its training; equal origins mean equal experts.
    pub fn origin(&self) -> Value {
        origin(self.how, self.lora, self.data, self.base)
    }

    /// Compares `groups` (expert name and its tasks) with what `library` holds.
    ///
    /// # Errors
    /// When a setting is out of range, a task has no rows, or an expert is asked for twice.
    pub fn plan(&self, library: &Library, groups: &[(Name, Vec<Name>)]) -> Result<Plan<'a>> {
        self.how.check()?;
        self.lora.check()?;
        once(groups)?;
        let since = library.now();
        let entries = library.entries()?;
        let origin = self.origin();
        let mut plan = Plan {
            training: *self,
            library: library.clone(),
            since,
            jobs: Vec::new(),
            what: self.what(library, groups, &origin),
            version: library.version(),
            already: Vec::new(),
            differing: Vec::new(),
            strangers: self.strangers(&entries, groups),
            replace: false,
            mixed_bases: false,
        };
        for (name, tasks) in groups {
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
            let examples = self.data.select(Some(tasks), Split::Train)?;
            plan.jobs.push(Job {
                origin: origin.clone(),
                ..Job::new(name.clone(), tasks.clone(), examples)
            });
        }
        Ok(plan)
    }

    fn what(&self, library: &Library, groups: &[(Name, Vec<Name>)], origin: &Value) -> Value {
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
        groups: &[(Name, Vec<Name>)],
    ) -> Vec<(Name, String)> {
        let other = |entry: &Entry| {
            let base = entry.base.as_ref();
            base.is_some_and(|base| *base != self.base.fingerprint)
        };
        let stays = |name: &Name| !groups.iter().any(|(group, _)| group == name);
        let all = entries.iter();
        all.filter(|(name, entry)| stays(name) && other(entry))
            .map(|(name, entry)| (name.clone(), entry.base_name.clone()))
            .collect()
    }

    /// How the expert of `card` was made otherwise than with `origin` on `tasks`.
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
fn once(groups: &[(Name, Vec<Name>)]) -> Result<()> {
    let mut names = BTreeSet::new();
    for (name, tasks) in groups {
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
    /// What differs, in a line.
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
        if let Some(first) = self.differing.first().filter(|_| !self.replace) {
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
            && !self.mixed_bases
            && !self.jobs.is_empty()
        {
            return Err(Error::invalid(format!(
                "expert `{name}` of {} belongs to another base (`{base}`) than the one to train on \
                 (`{}`); no router takes both, so give these a library of their own",
                self.library.uri(),
                self.training.base.name
            )));
        }
        Ok(())
    }
}
