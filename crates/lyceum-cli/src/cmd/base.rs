//! base show.

use std::path::Path;

use anyhow::Result;
use lyceum::backbone::{BaseInfo, Precision};
use lyceum::store::{Wanted, fetched_with};

use super::Settings;
use crate::out::{show as print, warn};

pub(crate) fn show(dir: Option<&Path>, all: bool, settings: &Settings) -> Result<()> {
    let summary = match dir {
        Some(dir) => BaseInfo::open(&fetched_with(dir, Wanted::Base, &settings.session)?)?,
        None => BaseInfo::of(&lyceum::assets::base(Precision::F32)?)?,
    };
    warn(&summary.notes);
    print(settings.format, &summary, |base| text(base, all))
}

fn text(base: &BaseInfo, all: bool) -> String {
    let config = &base.config;
    let (heads, groups) = (config.attention.heads, config.attention.kv_heads);
    let stops: Vec<String> = base.stops.iter().map(u32::to_string).collect();
    let lines = [
        ("parameters", base.parameters.to_string()),
        ("vocabulary", config.vocab_size.to_string()),
        ("positions", config.max_position_embeddings.to_string()),
        ("blocks", config.layers.len().to_string()),
        ("width", config.hidden_size.to_string()),
        ("mlp", config.mlp.inner.to_string()),
        (
            "heads",
            format!(
                "{heads} of {}, {groups} of keys and values",
                config.attention.dim
            ),
        ),
        ("stops at", stops.join(", ")),
        ("chat", if base.chat { "yes" } else { "no" }.into()),
        ("fingerprint", base.fingerprint.clone()),
        ("architecture", base.family_fingerprint.clone()),
    ];
    let mut text = format!("{} ({})\n", base.name, base.family);
    for (name, value) in lines {
        text += &format!("{name:<12} {value}\n");
    }
    if all {
        text += "\nsites [d_out, d_in]\n";
        for site in &base.sites {
            text += &format!("{} [{}, {}]\n", site.site, site.d_out, site.d_in);
        }
        return text;
    }
    text += "\nsites [d_out, d_in], as patterns (--all lists them)\n";
    for pattern in base.patterns() {
        text += &format!("{pattern}\n");
    }
    text
}
