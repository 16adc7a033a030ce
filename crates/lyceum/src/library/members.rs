//! Which experts count when "all experts" are meant.
//!
//! A merged expert is made of others. If it counted beside them, adding it would change what every
//! router, clustering, derivation and merge over the library gives: so it counts only where it is
//! named or asked for.

use std::collections::{BTreeMap, BTreeSet};

use glob::Pattern;

use super::entry::Entry;
use super::{Blob, Library};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::each;

/// Which experts of a library count.
///
/// ```no_run
/// use lyceum::prelude::*;
///
/// let library = Library::open("experts")?;
/// let some = library.members(&Members::globs(["flan-*", "p3-*"]))?;
/// println!("{} of {} experts", some.names()?.len(), library.names()?.len());
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Members {
    /// Those that were trained or imported, not those merged from others.
    #[default]
    Trained,
    /// All, the merged ones too.
    All,
    /// These.
    Named(Vec<Name>),
    /// Those whose name matches one of these shell patterns (`*`, `?`, `[a-z]`), merged ones too.
    Globs(Vec<String>),
    /// Those that were trained or imported and serve one of these tasks.
    Tasks(Vec<Name>),
}

impl Members {
    /// Those whose name matches one of `patterns`.
    pub fn globs<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Members::Globs(patterns.into_iter().map(Into::into).collect())
    }
}

/// The experts a handle is limited to.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) names: BTreeSet<Name>,
    /// The cards that were read to select them, as they lie in the store.
    cards: BTreeMap<Name, (Blob, Vec<u8>)>,
}

impl Library {
    /// The same library with only these experts: listing, reading, routing, clustering, deriving
    /// and copying see no others. It follows the library's versions; the selection stays.
    ///
    /// ```
    /// use lyceum::library::{Library, Members};
    ///
    /// let library = Library::create("memory://doc-members")?;
    /// // Nothing matches in an empty library.
    /// assert!(library.members(&Members::globs(["squad_*"])).is_err());
    /// assert_eq!(library.members(&Members::All)?.names()?.len(), 0);
    /// # Ok::<(), lyceum::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that is not there, a pattern that matches none and a task that
    /// none serves; [`Error::Invalid`] for a malformed pattern, and when a library holds nothing but
    /// merged experts and these are not asked for.
    pub fn members(&self, which: &Members) -> Result<Library> {
        let mut cards = BTreeMap::new();
        let names = match which {
            Members::All => self.names()?.into_iter().collect(),
            Members::Named(names) => {
                for name in names {
                    self.entry(name)?;
                }
                names.iter().cloned().collect()
            }
            Members::Globs(patterns) => self.matching(patterns)?,
            Members::Tasks(tasks) => {
                let entries = self.serving(tasks)?;
                self.trained(&entries, &mut cards)?
            }
            Members::Trained => self.trained(&self.entries()?, &mut cards)?,
        };
        Ok(Library {
            shared: self.shared.clone(),
            selection: Some(Selection { names, cards }.into()),
        })
    }

    /// The experts whose names match one of `patterns`.
    fn matching(&self, patterns: &[String]) -> Result<BTreeSet<Name>> {
        let (names, mut found) = (self.names()?, BTreeSet::new());
        for text in patterns {
            let pattern = Pattern::new(text)
                .map_err(|e| Error::invalid(format!("`{text}` is no pattern for names: {e}")))?;
            let own: Vec<&Name> = { names.iter() }
                .filter(|name| pattern.matches(name.as_str()))
                .collect();
            if own.is_empty() {
                let names = names.iter().map(Name::as_str);
                return Err(Error::not_found("expert that matches", text, names));
            }
            found.extend(own.into_iter().cloned());
        }
        Ok(found)
    }

    /// The experts that serve one of `tasks`.
    fn serving(&self, tasks: &[Name]) -> Result<BTreeMap<Name, Entry>> {
        let mut entries = self.entries()?;
        let served: BTreeSet<&Name> = entries.values().flat_map(|entry| &entry.tasks).collect();
        if let Some(task) = tasks.iter().find(|task| !served.contains(task)) {
            let served = served.iter().map(|task| task.as_str());
            return Err(Error::not_found("expert for task", task.as_str(), served));
        }
        entries.retain(|_, entry| entry.tasks.iter().any(|task| tasks.contains(task)));
        Ok(entries)
    }

    /// Those of `entries` that were trained or imported; the cards read are kept in `kept`.
    fn trained(
        &self,
        entries: &BTreeMap<Name, Entry>,
        kept: &mut BTreeMap<Name, (Blob, Vec<u8>)>,
    ) -> Result<BTreeSet<Name>> {
        let all: Vec<(&Name, &Entry)> = entries.iter().collect();
        let read = |(name, entry): &(&Name, &Entry)| {
            let bytes = self.card_bytes(name, entry)?;
            Ok((self.parse_card(name, &bytes)?, bytes))
        };
        let cards = each(self.shared.objects.store.width(), &all, read)?;
        let (merged, trained): (Vec<_>, Vec<_>) =
            cards.into_iter().partition(|(card, _)| card.is_merge());
        if trained.is_empty()
            && let Some((one, _)) = merged.first()
        {
            return Err(Error::invalid(format!(
                "library {} holds merged experts only (`{}`{}), which count where they are named \
                 or merged experts are included",
                self.uri(),
                one.name,
                if merged.len() > 1 { ", …" } else { "" }
            )));
        }
        for (card, bytes) in trained {
            let blob = entries[&card.name].card(&card.name)?.clone();
            kept.insert(card.name, (blob, bytes));
        }
        Ok(kept.keys().cloned().collect())
    }

    /// The bytes of the card of `name`, from the store unless the selection has read them.
    pub(super) fn card_bytes(&self, name: &Name, entry: &Entry) -> Result<Vec<u8>> {
        let blob = entry.card(name)?;
        let selection = self.selection.as_ref();
        match selection.and_then(|selection| selection.cards.get(name)) {
            Some((held, bytes)) if held == blob => Ok(bytes.clone()),
            _ => self.shared.objects.get(blob),
        }
    }

    /// This library if it is a selection, else its trained experts.
    ///
    /// # Errors
    /// As [`Library::members`].
    pub(crate) fn chosen(&self) -> Result<Library> {
        match self.selection {
            Some(_) => Ok(self.clone()),
            None => self.members(&Members::Trained),
        }
    }

    /// True if `name` is not left out by a selection.
    pub(super) fn counts(&self, name: &Name) -> bool {
        let selection = self.selection.as_ref();
        selection.is_none_or(|selection| selection.names.contains(name))
    }
}
