//! What a base is, told without preparing it for computing.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::config::Config;
use super::load::{Base, Parts};
use crate::error::Result;

/// A base, described.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The folder's name.
    pub name: String,
    /// The family, as `config.json` names it.
    pub family: String,
    /// Values in all its tensors; a tied head counts once.
    pub parameters: usize,
    /// What experts remember it by.
    pub fingerprint: String,
    /// Tokens that end a text.
    pub stops: BTreeSet<u32>,
    /// Whether it says how conversations are written.
    pub chat: bool,
    /// Every linear an expert can adapt.
    pub sites: Vec<SiteShape>,
    /// What it computes.
    pub config: Config,
}

/// A linear an expert can adapt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteShape {
    /// The path of its module.
    pub site: String,
    /// Width of its output.
    pub d_out: usize,
    /// Width of its input.
    pub d_in: usize,
}

impl Summary {
    /// Looks at a folder or a GGUF file. Weights are read once, for the fingerprint, and not
    /// kept.
    ///
    /// # Errors
    /// As [`Base::open`], except that values are not checked to be finite.
    pub fn open(path: &Path) -> Result<Self> {
        let Parts {
            name,
            config,
            mut weights,
            said,
            tokenizer,
        } = Parts::open(path)?;
        weights.fit(&config)?;
        let fingerprint = weights.fingerprint(&config)?;
        let mut stops = said.stops;
        stops.insert(tokenizer.eos());
        let stops = (stops, !said.chat.is_empty());
        Ok(Summary::new(name, fingerprint, stops, config))
    }

    /// What `base` is.
    pub fn of(base: &Base) -> Self {
        let stops = (base.stops.clone(), !base.chat.is_empty());
        let config = base.decoder.config().clone();
        Summary::new(base.name.clone(), base.fingerprint.clone(), stops, config)
    }

    fn new(
        name: String,
        fingerprint: String,
        (stops, chat): (BTreeSet<u32>, bool),
        config: Config,
    ) -> Self {
        let count = |(_, shape): (_, Vec<usize>)| shape.iter().product::<usize>();
        let sites = config
            .sites()
            .into_iter()
            .map(|(site, (d_out, d_in))| SiteShape {
                site: site.as_str().into(),
                d_out,
                d_in,
            });
        Summary {
            name,
            family: config.model_type.clone(),
            parameters: config.tensors().into_iter().map(count).sum(),
            fingerprint,
            stops,
            chat,
            sites: sites.collect(),
            config,
        }
    }
}
