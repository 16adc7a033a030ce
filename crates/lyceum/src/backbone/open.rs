//! Opens the files of a base: a Hugging Face folder of config, weights and tokenizer, or a GGUF
//! file.

use std::path::Path;

use super::chat::Said;
use super::checkpoint::{self, Weights};
use super::config::Config;
use super::gguf;
use super::parts::Parts;
use crate::data::Tokenizer;
use crate::error::{Context, Error, Result};

/// Opens a folder or a GGUF file.
pub(super) fn open(path: &Path) -> Result<Parts<'static>> {
    let opening = || format!("opening the base {}", path.display());
    if path.is_file() {
        return gguf::open(path).context(opening);
    }
    let config = path.join("config.json");
    if path.is_dir() && !config.exists() {
        return Err(Error::invalid(format!(
            "{} has no config.json, which describes the base{}",
            path.display(),
            checkpoint::instead(path)
        )));
    }
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        crate::file::check_start(&path.join(name))?;
    }
    Ok(Parts {
        name: name_of(path),
        config: Config::read(&config).context(opening)?,
        weights: Weights::open(path)?,
        said: Said::open(path)?,
        tokenizer: Tokenizer::open(path)?,
        notes: Vec::new(),
    })
}

/// The name of the base in `dir`.
fn name_of(dir: &Path) -> String {
    dir.file_name()
        .map_or_else(|| "base".into(), |n| n.to_string_lossy().into())
}
