//! Describes a base without preparing it for computing.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::config::Config;
use super::load::Base;
use super::open::open;
use super::parts::Parts;
use super::pattern::{self, SitePattern, SiteShape};
use crate::error::Result;

/// A base, described.
#[derive(Debug, Clone, Serialize)]
pub struct BaseInfo {
    /// The folder's name.
    pub name: String,
    /// The family, as `config.json` names it.
    pub family: String,
    /// Values in all its tensors; a tied head counts once.
    pub parameters: usize,
    /// The fingerprint that experts record.
    pub fingerprint: String,
    /// The architecture's fingerprint, equal for every base of it, whatever its weights.
    pub family_fingerprint: String,
    /// Tokens that end a text.
    pub stops: BTreeSet<u32>,
    /// `true` if the base has a chat template.
    pub chat: bool,
    /// Every linear an expert can adapt.
    pub sites: Vec<SiteShape>,
    /// The decoder's configuration.
    pub config: Config,
    /// Warnings, as in [`Base::notes`].
    pub notes: Vec<String>,
}

impl BaseInfo {
    /// The linears an expert can adapt, those together that differ in their numbers only.
    pub fn patterns(&self) -> Vec<SitePattern> {
        pattern::patterns(&self.sites)
    }

    /// Looks at a folder or a GGUF file. Weights are read once, for the fingerprint, and not
    /// kept.
    ///
    /// # Errors
    /// As [`Base::open`], except that values are not checked to be finite.
    pub fn open(path: &Path) -> Result<Self> {
        let Parts {
            name,
            mut config,
            mut weights,
            said,
            mut tokenizer,
            mut notes,
        } = open(path)?;
        tokenizer.doubt(&config.model_type);
        weights.fit(&mut config)?;
        notes.append(&mut config.notes);
        notes.append(&mut weights.notes);
        notes.extend_from_slice(tokenizer.notes());
        let fingerprint = weights.fingerprint(&config)?;
        let mut stops = said.stops;
        stops.insert(tokenizer.eos());
        let stops = (stops, !said.chat.is_empty());
        BaseInfo::new(name, fingerprint, stops, config, notes)
    }

    /// The summary of `base`.
    ///
    /// # Errors
    /// When its description cannot be written as JSON.
    pub fn of(base: &Base) -> Result<Self> {
        let stops = (base.stops.clone(), !base.chat.is_empty());
        let config = base.decoder.config().clone();
        let fingerprint = base.fingerprint.clone();
        let notes = [base.notes.as_slice(), base.tokenizer.notes()].concat();
        BaseInfo::new(base.name.clone(), fingerprint, stops, config, notes)
    }

    fn new(
        name: String,
        fingerprint: String,
        (stops, chat): (BTreeSet<u32>, bool),
        config: Config,
        notes: Vec<String>,
    ) -> Result<Self> {
        let count = |(_, shape): (_, Vec<usize>)| shape.iter().product::<usize>();
        let sites = config
            .sites()
            .into_iter()
            .map(|(site, (d_out, d_in))| SiteShape {
                site: site.as_str().into(),
                d_out,
                d_in,
            });
        Ok(BaseInfo {
            name,
            family: config.model_type.clone(),
            parameters: config.tensors().into_iter().map(count).sum(),
            fingerprint,
            family_fingerprint: config.family_fingerprint()?,
            stops,
            chat,
            sites: sites.collect(),
            config,
            notes,
        })
    }
}
