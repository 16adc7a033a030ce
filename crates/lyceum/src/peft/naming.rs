//! The names an adapter has for the layers of the base.
//!
//! One trained on the same blocks inside another model says other things before them: with
//! `language_model` where a model of images was around, without `model` where no head was.

use std::collections::BTreeMap;

use crate::name::Site;

/// The base's layers, with (d_out, d_in).
type Sites = BTreeMap<Site, (usize, usize)>;

/// Parts that may stand before the blocks of a language model inside a larger one.
const AROUND: [&str; 3] = ["model", "language_model", "text_model"];

/// The adapter's paths begin with `strip` where the base's begin with `put`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Naming {
    strip: String,
    put: String,
}

impl Naming {
    /// The naming under which every one of `paths` is among `sites`; the base's own where some are
    /// already, or where there is none.
    pub(super) fn find<'a>(paths: impl Iterator<Item = &'a str> + Clone, sites: &Sites) -> Self {
        let known = |path: &str| sites.contains_key(path);
        let Some(first) = paths.clone().next() else {
            return Naming::default();
        };
        if paths.clone().any(known) {
            return Naming::default();
        }
        let candidates = sites.keys().filter_map(|site| Naming::of(first, site));
        let fits = |naming: &Naming| {
            paths
                .clone()
                .all(|path| naming.base(path).is_some_and(|site| known(&site)))
        };
        // The one that leaves most as it is.
        let changed = |naming: &Naming| naming.strip.len() + naming.put.len();
        candidates
            .filter(fits)
            .min_by_key(changed)
            .unwrap_or_default()
    }

    /// The naming that makes `path` out of `site`, if they end alike from a block's number on.
    fn of(path: &str, site: &Site) -> Option<Self> {
        let alike = { path.rsplit('.').zip(site.as_str().rsplit('.')) }
            .take_while(|(a, b)| a == b)
            .count();
        let split = |text: &str| {
            let parts: Vec<&str> = text.split('.').collect();
            let (before, after) = parts.split_at(parts.len() - alike);
            (
                before.iter().map(|part| format!("{part}.")).collect(),
                after.join("."),
            )
        };
        let ((strip, end), (put, _)): ((String, String), (String, String)) =
            (split(path), split(site.as_str()));
        let around = strip
            .split_terminator('.')
            .all(|part| AROUND.contains(&part));
        let blocks = end.split('.').any(|part| part.parse::<u32>().is_ok());
        (around && blocks).then_some(Naming { strip, put })
    }

    /// The base's name of the layer that the adapter calls `path`.
    pub(super) fn base(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(&self.strip)?;
        Some(format!("{}{rest}", self.put))
    }

    /// The adapter's name of `site`.
    pub(super) fn adapter(&self, site: &Site) -> String {
        match site.as_str().strip_prefix(&self.put) {
            Some(rest) => format!("{}{rest}", self.strip),
            None => site.to_string(),
        }
    }

    /// A word on it, unless the names are the base's own.
    pub(super) fn note(&self) -> Option<String> {
        (*self != Naming::default()).then(|| {
            format!(
                "its layers are called `{}...`, taken for the base's `{}...`",
                self.strip, self.put
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_and_headless_names_are_found() {
        let sites = ["model.layers.0.q", "model.layers.1.q", "model.layers.1.up"];
        let sites = sites.map(|site| (Site::new(site), (4, 4))).into();
        let find = |paths: &[&str]| Naming::find(paths.iter().copied(), &sites);
        let base = |naming: &Naming, path: &str| naming.base(path).unwrap_or_default();
        for before in [
            "language_model.model.",
            "model.language_model.",
            "model.language_model.model.",
            "model.text_model.",
            "",
        ] {
            let paths = ["0.q", "1.up"].map(|end| format!("{before}layers.{end}"));
            let naming = find(&[&paths[0], &paths[1]]);
            assert_eq!(base(&naming, &paths[0]), "model.layers.0.q", "{before}");
            assert_eq!(naming.adapter(&Site::new("model.layers.1.up")), paths[1]);
            assert!(naming.note().is_some());
        }
        // The base's own, also where not all are there; other towers; nothing alike.
        for paths in [
            &["model.layers.0.q"][..],
            &["model.layers.0.q", "model.layers.9.q"],
            &["vision_tower.layers.0.q"],
            &["language_model.layers.0.q", "vision_tower.layers.0.q"],
            &["language_model.model.layers.7.q"],
            &["decoder.layers.0.q"],
            &["q"],
        ] {
            let naming = find(paths);
            assert_eq!(naming, Naming::default(), "{paths:?}");
            assert_eq!(naming.note(), None);
        }
    }
}
