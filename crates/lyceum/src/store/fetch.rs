//! Repositories of a hub as folders on this machine, for what reads folders.

use std::path::{Path, PathBuf};

use super::{Address, Session};
use crate::error::Result;

/// Selections of a repository's files to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A base: configuration, weights, tokenizer, chat templates.
    Base,
    /// Experts: PEFT adapters, or a library of MTTL's.
    Experts,
}

impl Wanted {
    #[cfg(feature = "remote")]
    fn what(self) -> &'static str {
        match self {
            Wanted::Base => "base (config.json, weights, tokenizer)",
            Wanted::Experts => "library of Lyceum's or MTTL's, and no PEFT adapter",
        }
    }

    /// Those of `paths` that are wanted.
    #[cfg(feature = "remote")]
    fn of<'a>(self, paths: &[&'a str]) -> Vec<&'a str> {
        let ends = |path: &str, ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
        // Older weights only where there are no others.
        let safe = |below: &str| {
            let mut beside = paths.iter().filter(|path| folder(path) == below);
            beside.any(|path| path.ends_with(".safetensors"))
        };
        let takes = |path: &&&str| match self {
            Wanted::Base => {
                let old = path.ends_with(".bin") && path.starts_with("pytorch_model");
                let here = !path.contains('/')
                    && (ends(path, &[".json", ".safetensors", ".jinja", ".txt", ".model"])
                        || (old && !safe("")));
                here || (folder(path) == "additional_chat_templates" && ends(path, &[".jinja"]))
            }
            Wanted::Experts => {
                let name = path.rsplit('/').next().unwrap_or(path);
                let adapter = matches!(name, "adapter_config.json" | "adapter_model.safetensors")
                    || (name == "adapter_model.bin" && !safe(folder(path)));
                let foreign = ends(path, &[".meta", ".ckpt"]) || path.ends_with(".bin");
                adapter || (foreign && !path.contains('/') && name != "adapter_model.bin")
            }
        };
        paths.iter().filter(takes).copied().collect()
    }
}

#[cfg(feature = "remote")]
fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folder at `path`: itself if it is one of this machine, else what is wanted of the
/// repository at `hf://owner/name[@revision][/path]`, fetched into the cache and verified.
///
/// # Errors
/// When there is no such repository, nothing of what is wanted is in it, or it cannot be fetched.
pub fn fetched(path: &Path, wanted: Wanted) -> Result<PathBuf> {
    fetched_with(path, wanted, &Session::from_env())
}

/// As [`fetched`], with the cache and the credentials of `session`.
///
/// # Errors
/// As [`fetched`].
pub fn fetched_with(path: &Path, wanted: Wanted, session: &Session) -> Result<PathBuf> {
    let Some(address) = hub_at(path)? else {
        return Ok(path.to_owned());
    };
    fetch(&address, wanted, session)
}

/// The address that `path` is, if it is one of a hub.
pub(crate) fn hub_at(path: &Path) -> Result<Option<Address>> {
    match path.to_str().filter(|text| text.starts_with("hf://")) {
        Some(text) => Address::parse(text).map(Some),
        None => Ok(None),
    }
}

#[cfg(feature = "remote")]
fn fetch(address: &Address, wanted: Wanted, session: &Session) -> Result<PathBuf> {
    let snapshot = super::Snapshot::open(address, session)?;
    let paths: Vec<&str> = snapshot.paths().collect();
    let taken = wanted.of(&paths);
    if taken.is_empty() {
        let text = format!("{address} holds no {}", wanted.what());
        return Err(crate::Error::invalid(text));
    }
    snapshot.fetch(taken)
}

#[cfg(not(feature = "remote"))]
fn fetch(address: &Address, _: Wanted, _: &Session) -> Result<PathBuf> {
    Err(super::without(address))
}

#[cfg(all(test, feature = "remote"))]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_read_is_fetched() {
        let base = [
            "README.md",
            "additional_chat_templates/rag.jinja",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/config.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "tf_model.h5",
        ];
        let taken = Wanted::Base.of(&base);
        assert_eq!(
            taken,
            [
                "additional_chat_templates/rag.jinja",
                "config.json",
                "model.safetensors",
                "tokenizer.json"
            ]
        );
        assert_eq!(Wanted::Base.of(&["pytorch_model.bin"]).len(), 1);
        let experts = [
            "a/adapter_config.json",
            "a/adapter_model.bin",
            "a/adapter_model.safetensors",
            "b/adapter_model.bin",
            "b/optimizer.bin",
            "x.meta",
            "x.ckpt",
            "x.phatgoose.bin",
        ];
        let taken = Wanted::Experts.of(&experts);
        let without = ["a/adapter_model.bin", "b/optimizer.bin"];
        assert_eq!(taken.len(), experts.len() - 2);
        assert!(without.iter().all(|path| !taken.contains(path)));
    }
}
