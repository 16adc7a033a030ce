//! Which experts count when "all experts" are meant.
//!
//! A merged expert is made of others. If it counted beside them, adding it would change what every
//! router, clustering, derivation and merge over the library gives: so it counts only where it is
//! named or asked for.

use std::collections::BTreeSet;

use super::Library;
use crate::error::{Error, Result};
use crate::expert::Card;
use crate::name::Name;

/// Which experts of a library count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Members {
    /// Those that were trained or imported, not those merged from others.
    #[default]
    Trained,
    /// All, the merged ones too.
    All,
    /// These.
    Named(Vec<Name>),
}

/// The experts a handle is limited to.
#[derive(Debug)]
pub(super) struct Selection {
    names: BTreeSet<Name>,
}

impl Library {
    /// The same library with only these experts: listing, reading, routing, clustering, deriving
    /// and copying see no others. It follows the library's versions; the selection stays.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that is not there; [`Error::Invalid`] when a library holds
    /// nothing but merged experts and these are not asked for.
    pub fn members(&self, which: &Members) -> Result<Library> {
        let names = match which {
            Members::All => self.names()?.into_iter().collect(),
            Members::Named(names) => {
                for name in names {
                    self.entry(name)?;
                }
                names.iter().cloned().collect()
            }
            Members::Trained => self.trained()?,
        };
        Ok(Library {
            shared: self.shared.clone(),
            selection: Some(Selection { names }.into()),
        })
    }

    /// The experts that were trained or imported.
    fn trained(&self) -> Result<BTreeSet<Name>> {
        let cards = self.cards()?;
        let (merged, trained): (Vec<&Card>, Vec<&Card>) =
            cards.iter().partition(|card| card.is_merge());
        if trained.is_empty()
            && let Some(one) = merged.first()
        {
            return Err(Error::invalid(format!(
                "library {} holds merged experts only (`{}`{}), which count where they are named \
                 or merged experts are included",
                self.uri(),
                one.name,
                if merged.len() > 1 { ", …" } else { "" }
            )));
        }
        Ok(trained.into_iter().map(|card| card.name.clone()).collect())
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
