//! list, show, history, copy, remove, restore, rename, purge, cluster.

use std::time::Duration;

use anyhow::Result;
use lyceum::Name;
use lyceum::expert::Card;
use lyceum::library::{Entry, Library};
use lyceum::store::{Put, Session};
use lyceum::transform::{self, Mbc};
use serde_json::json;

use super::{Settings, done, model};
use crate::args::{ClusterArgs, CopyArgs, ListArgs, RestoreArgs};
use crate::out::{Bar, Format, say, show};

fn open(uri: &str, at: Option<u64>, session: &Session) -> Result<Library> {
    let library = Library::open_with(uri, session)?;
    match at {
        Some(version) => Ok(library.at(version)?),
        None => Ok(library),
    }
}

fn named(names: &[String]) -> Result<Vec<Name>> {
    Ok(names
        .iter()
        .map(|n| Name::new(n))
        .collect::<Result<_, _>>()?)
}

/// Seconds since 1970 as a date and time, UTC.
pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|s| chrono::DateTime::from_timestamp(s, 0));
    time.map_or_else(String::new, |t| t.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[derive(serde::Serialize)]
struct Row {
    name: Name,
    lora: serde_json::Value,
    base: Option<String>,
    base_name: String,
    tasks: Vec<Name>,
    weights: String,
    added: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<String>,
}

impl Row {
    fn new(name: Name, entry: Entry) -> Self {
        Row {
            name,
            lora: json!({ "rank": entry.rank, "alpha": entry.alpha }),
            base: entry.base,
            base_name: entry.base_name,
            tasks: entry.tasks,
            weights: entry.fingerprint,
            added: date(entry.added),
            removed: entry.removed.map(date),
        }
    }
}

pub(crate) fn list(args: &ListArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let library = open(&args.uri, args.at, session)?;
    let mut entries = match args.removed {
        true => library.removed()?,
        false => library.entries()?,
    };
    let wanted = |name: &Name, entry: &Entry| {
        let matches = |pattern: &glob::Pattern| pattern.matches(name.as_str());
        let stands = |task: &Name| entry.tasks.contains(task);
        let on = |base: &String| {
            let known = entry.base.as_ref().is_some_and(|own| own.starts_with(base));
            entry.base_name == *base || known
        };
        args.name.as_ref().is_none_or(matches)
            && (args.tasks.is_empty() || args.tasks.iter().any(stands))
            && args.base.as_ref().is_none_or(on)
    };
    entries.retain(|name, entry| wanted(name, entry));
    if format == Format::Json && !args.removed {
        // Machines get the cards whole, with when each was added.
        let cards = library.cards_of(&entries)?;
        let dated = |(card, entry): (Card, &Entry)| -> Result<serde_json::Value> {
            let mut card = serde_json::to_value(card)?;
            card["added"] = date(entry.added).into();
            Ok(card)
        };
        let cards: Vec<serde_json::Value> = { cards.into_iter().zip(entries.values()) }
            .map(dated)
            .collect::<Result<_>>()?;
        return show(format, &cards, |_| String::new());
    }
    let rows = { entries.into_iter() }.map(|(name, entry)| Row::new(name, entry));
    let rows: Vec<Row> = rows.collect();
    show(format, &rows, |rows| {
        let mut text = format!(
            "{:<60} {:>4} {:>6}  {:<12} {:<20}  tasks\n",
            "name", "rank", "alpha", "base", "added"
        );
        for row in rows {
            let tasks: Vec<&str> = row.tasks.iter().map(Name::as_str).collect();
            let number = |what: &str| row.lora[what].to_string();
            let (rank, alpha) = (number("rank"), number("alpha"));
            text += &format!(
                "{:<60} {rank:>4} {alpha:>6}  {:<12.12} {:<20}  {}\n",
                row.name,
                row.base.as_deref().unwrap_or("not known"),
                row.added,
                tasks.join(",")
            );
        }
        text
    })
}

pub(crate) fn show_expert(
    uri: &str,
    at: Option<u64>,
    name: &str,
    settings: &Settings,
) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let library = open(uri, at, session)?;
    let name = Name::new(name)?;
    let entry = library.entry(&name)?;
    let expert = library.expert(&name)?;
    let mut sites = Vec::new();
    for (site, lora) in &expert.loras {
        let (rank, d_in, d_out) = (lora.rank(), lora.d_in(), lora.d_out());
        sites.push(json!({
            "site": site.as_str(), "rank": rank, "d_in": d_in, "d_out": d_out,
            "scale": lora.scale, "norm": lora.norm()?,
        }));
    }
    let derived: Vec<&Name> = entry.artifacts.keys().filter(|k| entry.has(k)).collect();
    let value = json!({
        "card": expert.card, "sites": sites, "artifacts": derived, "added": date(entry.added),
        "version": library.version(),
    });
    show(format, &value, |value| {
        serde_json::to_string_pretty(value).unwrap_or_default()
    })
}

pub(crate) fn history(uri: &str, limit: usize, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let versions = Library::open_with(uri, session)?.history(limit)?;
    let versions: Vec<serde_json::Value> = versions
        .iter()
        .map(|m| {
            let changes: Vec<String> = m.changes.iter().map(ToString::to_string).collect();
            json!({
                "version": m.version, "time": date(m.time), "experts": m.experts,
                "changed": m.changed, "changes": changes, "by": m.by,
            })
        })
        .collect();
    show(format, &versions, |versions| {
        let mut text = format!(
            "{:>7}  {:<20} {:>7}  changes\n",
            "version", "time", "experts"
        );
        for m in versions {
            let changes = m["changes"].as_array().into_iter().flatten();
            let changes: Vec<&str> = changes.filter_map(|c| c.as_str()).take(3).collect();
            let number = |key: &str| m[key].as_u64().unwrap_or(0);
            let more = match number("changed").saturating_sub(changes.len() as u64) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let time = m["time"].as_str().unwrap_or_default();
            let (version, experts) = (number("version"), number("experts"));
            text += &format!("{version:>7}  {time:<20} {experts:>7}  ");
            text += &format!("{}{more}\n", changes.join(", "));
        }
        text
    })
}

pub(crate) fn copy(args: &CopyArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let names = named(&args.names)?;
    let only = (!names.is_empty()).then_some(names.as_slice());
    let how = put(args.replace);
    let (from, to) = (
        open(&args.source, args.at, session)?,
        Library::prepare_with(&args.destination, session)?,
    );
    let mut bar = Bar::new("copy", "");
    let copied = from.copy(&to, only, how, |done, all| bar.at(done, all))?;
    drop(bar);
    to.make()?;
    show(format, &copied, |copied| {
        format!(
            "copied {} experts and {} artifacts to {}; {} were there already",
            copied.experts, copied.artifacts, args.destination, copied.already
        )
    })
}

/// Replacing what is there, or not.
fn put(replace: bool) -> Put {
    match replace {
        true => Put::Replace,
        false => Put::New,
    }
}

pub(crate) fn remove(uri: &str, names: &[String], settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let (library, names) = (Library::open_with(uri, session)?, named(names)?);
    // All or none.
    for name in &names {
        library.entry(name)?;
    }
    let mut batch = library.batch()?;
    names.iter().for_each(|name| batch.remove(name));
    batch.commit()?;
    let text = format!(
        "removed {} experts; `lyceum restore` brings them back",
        names.len()
    );
    done(format, &text)
}

pub(crate) fn restore(uri: &str, names: &[String], settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let (library, names) = (Library::open_with(uri, session)?, named(names)?);
    for name in &names {
        library.restore(name).map_err(|error| match error {
            lyceum::Error::Exists { .. } => anyhow::anyhow!(
                "expert `{name}` is there and not removed; `lyceum restore {uri} {name} --at \
                 VERSION` brings back what it was (`lyceum history {uri}` lists the versions)"
            ),
            other => other.into(),
        })?;
    }
    done(format, &format!("restored {} experts", names.len()))
}

pub(crate) fn restore_at(args: &RestoreArgs, version: u64, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let (library, names) = (Library::open_with(&args.uri, session)?, named(&args.names)?);
    let how = put(args.replace);
    let before = library.version();
    let now: Vec<Name> = library.entries()?.into_keys().collect();
    let after = library.restore_at(&names, version, how);
    let after = after.map_err(|error| match error {
        lyceum::Error::Exists { name, .. } => anyhow::anyhow!(
            "another expert is called `{name}` now; --replace puts what it was in version \
             {version} in its place (version {before} keeps the present one)"
        ),
        other => other.into(),
    })?;
    let replaced: Vec<&Name> = names.iter().filter(|name| now.contains(name)).collect();
    let value = json!({
        "restored": names, "at": version, "version": after,
        "replaced": if after > before { replaced.clone() } else { Vec::new() },
        "kept_in": before,
    });
    show(format, &value, |_| match after > before {
        false => format!("as they were in version {version} already"),
        true if replaced.is_empty() => {
            format!("restored {} of version {version}", joined(&names))
        }
        true => format!(
            "restored {} of version {version}; version {before} keeps what was there",
            joined(&names)
        ),
    })
}

fn joined(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}

pub(crate) fn rename(uri: &str, from: &str, to: &str, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    Library::open_with(uri, session)?.rename(&Name::new(from)?, &Name::new(to)?)?;
    done(format, &format!("renamed {from} to {to}"))
}

pub(crate) fn purge(uri: &str, grace: Duration, dry_run: bool, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let purged = Library::open_with(uri, session)?.purge(grace, dry_run)?;
    show(format, &purged, |purged| {
        let (would, least) = match dry_run {
            true => ("would give", "at least "),
            false => ("gave", ""),
        };
        let (experts, objects) = (purged.experts, purged.objects);
        format!(
            "{would} up {experts} removed experts and {least}{objects} objects; versions from {} \
             on can be opened",
            purged.oldest
        )
    })
}

pub(crate) fn cluster(args: &ClusterArgs, settings: &Settings) -> Result<()> {
    let (session, format) = (&settings.session, settings.format);
    let library = model::members(&Library::open_with(&args.uri, session)?, &args.members)?;
    let out = args.out.as_path();
    let how = Mbc::default()
        .k(args.k)
        .sparsity(args.sparsity)
        .seed(args.seed);
    let clusters = transform::cluster(&library, &how)?.clusters;
    let tasks = transform::write_clusters(out, &library, &clusters)?;
    if let Some(tasks) = tasks {
        say(&format!(
            "some experts are called otherwise than their tasks, which are in {}; `lyceum train \
             --clusters {}` reads both",
            tasks.display(),
            out.display()
        ));
    }
    show(format, &clusters, |clusters| {
        let line = |(name, members): (&Name, &Vec<Name>)| format!("{name}: {}\n", joined(members));
        clusters.iter().map(line).collect::<String>()
    })
}
