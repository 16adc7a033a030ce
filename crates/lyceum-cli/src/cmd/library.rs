//! list, history, copy, remove, restore, rename, purge, cluster.

use anyhow::Result;
use lyceum::Name;
use lyceum::expert::Card;
use lyceum::library::{Entry, Library};
use lyceum::store::{Put, Session};
use lyceum::transform::{self, Mbc};
use serde_json::json;

use super::{Settings, model};
use crate::args::{ClusterArgs, CopyArgs, ListArgs, PurgeArgs, RestoreArgs};
use crate::out::{Bar, Format, confirm, count, say, show};
use crate::table::{Column, Table};

pub(super) fn open(uri: &str, at: Option<u64>, session: &Session) -> Result<Library> {
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
    if rows.is_empty() && format == Format::Text {
        say("no experts");
        return Ok(());
    }
    show(format, &rows, |rows| listed(rows))
}

/// The table of `lyceum list`: tasks only of experts that are not called as their only task is.
fn listed(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let tasks: Vec<&str> = row.tasks.iter().map(Name::as_str).collect();
        let tasks = match tasks.as_slice() {
            [only] if *only == row.name.as_str() => String::new(),
            all => all.join(","),
        };
        let base = match &row.base {
            Some(_) => row.base_name.clone(),
            None => "not known".into(),
        };
        [
            row.name.to_string(),
            row.lora["rank"].to_string(),
            row.lora["alpha"].to_string(),
            base,
            row.added.chars().take(10).collect(),
            tasks,
        ]
    };
    let columns = [
        Column::text("name"),
        Column::number("rank"),
        Column::number("alpha"),
        Column::text("base"),
        Column::word("added"),
        Column::text("tasks"),
    ];
    Table::new(columns, rows.iter().map(line)).to_text()
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
        let line = |m: &serde_json::Value| {
            let changes = m["changes"].as_array().into_iter().flatten();
            let changes: Vec<&str> = changes.filter_map(|c| c.as_str()).take(3).collect();
            let number = |key: &str| m[key].as_u64().unwrap_or(0);
            let more = match number("changed").saturating_sub(changes.len() as u64) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            [
                number("version").to_string(),
                m["time"].as_str().unwrap_or_default().to_owned(),
                number("experts").to_string(),
                format!("{}{more}", changes.join(", ")),
            ]
        };
        let columns = [
            Column::number("version"),
            Column::word("time"),
            Column::number("experts"),
            Column::text("changes"),
        ];
        Table::new(columns, versions.iter().map(line)).to_text()
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
        let (experts, artifacts) = (copied.experts, copied.artifacts);
        format!(
            "copied {} and {} to {}; {} there already",
            count(experts, "expert"),
            count(artifacts, "artifact"),
            args.destination,
            copied.already
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
    let version = batch.commit()?;
    let value = json!({ "library": uri, "version": version, "removed": names });
    show(format, &value, |_| {
        format!(
            "removed {} from {uri}; `lyceum restore` brings back what was removed",
            joined(&names)
        )
    })
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
    let version = library.version();
    let value = json!({ "library": uri, "version": version, "restored": names });
    show(format, &value, |_| {
        format!("restored {} in {uri}", joined(&names))
    })
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
    let library = Library::open_with(uri, &settings.session)?;
    library.rename(&Name::new(from)?, &Name::new(to)?)?;
    let version = library.version();
    let value = json!({ "library": uri, "version": version, "from": from, "to": to });
    show(settings.format, &value, |_| {
        format!("renamed {from} to {to} in {uri}")
    })
}

pub(crate) fn purge(args: &PurgeArgs, settings: &Settings) -> Result<()> {
    let uri = &args.uri;
    if !args.dry_run && !args.yes {
        confirm(&format!(
            "delete what was removed from {uri} and its old versions for good?"
        ))?;
    }
    let library = Library::open_with(uri, &settings.session)?;
    let purged = library.purge(args.grace, args.dry_run)?;
    show(settings.format, &purged, |purged| {
        let (would, least) = match args.dry_run {
            true => ("would give", "at least "),
            false => ("gave", ""),
        };
        let (experts, objects) = (purged.experts, purged.objects);
        format!(
            "{would} up {} and {least}{}; versions from {} on can be opened",
            count(experts, "removed expert"),
            count(objects, "object"),
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
    say(&format!("wrote {}", out.display()));
    show(format, &clusters, |clusters| {
        let line = |(name, members): (&Name, &Vec<Name>)| format!("{name}: {}\n", joined(members));
        clusters.iter().map(line).collect::<String>()
    })
}
