//! The files of a checkpoint: which a folder holds, and what is wrong with those that are damaged.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::file;

/// Files of weights and the index of their shards, the first that is there, and whether
/// `torch.save` wrote them.
const FORMS: [(&str, &str, bool); 2] = [
    ("model.safetensors", "model.safetensors.index.json", false),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", true),
];

/// The files of a folder's weights.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) names: Vec<String>,
    /// `true` for files written by `torch.save`.
    pub(super) saved: bool,
    /// Notes about files that are there but not read.
    pub(super) notes: Vec<String>,
}

impl Files {
    /// Looks into a folder.
    ///
    /// # Errors
    /// When it holds no weights, or its index names shards that are not there.
    pub(super) fn of(dir: &Path) -> Result<Self> {
        for (single, index, saved) in FORMS {
            let shards = dir.join(index);
            let (one, many) = (dir.join(single).exists(), shards.exists());
            if !one && !many {
                continue;
            }
            let mut files = Files {
                names: vec![single.into()],
                saved,
                notes: Vec::new(),
            };
            match (one, many) {
                (true, true) => files.notes.push(format!(
                    "{}: `{single}` is read; the shards that `{index}` names are not",
                    dir.display()
                )),
                (true, false) => {}
                (false, _) => files.names = self::shards(&shards)?,
            }
            return Ok(files);
        }
        let names = FORMS.map(|(single, index, _)| format!("{single}, {index}"));
        Err(Error::invalid(format!(
            "{} holds no weights: none of {}{}",
            dir.display(),
            names.join(", "),
            instead(dir)
        )))
    }
}

/// The files an index names, which must lie beside it.
fn shards(index: &Path) -> Result<Vec<String>> {
    let what = index.display().to_string();
    let bytes = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let value: Value = file::json(&what, &bytes)?;
    let bad = |why: String| Error::format(&what, why);
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| bad("has no `weight_map`".into()))?;
    let mut files: Vec<String> = Vec::new();
    for (name, file) in map {
        let file = file.as_str();
        let file = file.ok_or_else(|| bad(format!("names no file for the tensor `{name}`")))?;
        files.push(file.into());
    }
    files.sort();
    files.dedup();
    if let Some(file) = files.iter().find(|f| f.contains(['/', '\\']) || *f == "..") {
        return Err(bad(format!("the shard `{file}` is outside the folder")));
    }
    let missing: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|file| !index.with_file_name(file).exists())
        .collect();
    match missing[..] {
        [] if files.is_empty() => Err(bad("names no shards".into())),
        [] => Ok(files),
        _ => Err(bad(format!(
            "names {} shards, of which {} not there: {}; download the rest of the base",
            files.len(),
            if missing.len() == 1 {
                "one is"
            } else {
                "some are"
            },
            missing.join(", ")
        ))),
    }
}

/// Describes what a folder that is not a base contains instead, with a remedy.
pub(in crate::backbone) fn instead(dir: &Path) -> String {
    let has = |name: &str| dir.join(name).exists();
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let ending = |end: &str| names.iter().find(|name| name.ends_with(end));
    if has("adapter_config.json") || has("adapter_model.safetensors") {
        "; it holds an adapter: open its base, and import the adapter".into()
    } else if let Some(name) = ending(".gguf") {
        format!("; it holds `{name}`: open that file")
    } else if let Some(name) = ending(".pth") {
        format!("; it holds `{name}`, the form before conversion: convert it with transformers")
    } else if ending(".incomplete").is_some() {
        "; it holds files of a download that was cut off: download it again".into()
    } else if let Some(name) = ending(".safetensors").or(ending(".bin")) {
        format!(
            "; it holds `{name}`, which has another name: add the index that names the shards, or \
             rename a file that is the whole"
        )
    } else {
        String::new()
    }
}

/// The error for a safetensors file that could not be read.
pub(super) fn damage(what: &str, bytes: &[u8]) -> Error {
    if let Err(error) = file::check(what, bytes) {
        return error;
    }
    Error::format(what, why(bytes))
}

fn why(bytes: &[u8]) -> String {
    let len = bytes.len();
    let known = bytes.split_first_chunk().and_then(|(size, rest)| {
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        Some((size, rest.get(..size)))
    });
    let (size, header) = match known {
        None => return format!("has {len} bytes, too few for a file of safetensors"),
        Some((_, None)) => {
            return format!(
                "has {len} bytes and its header alone is said to have more: it was downloaded in \
                 part, or is not a safetensors file"
            );
        }
        Some((size, Some(header))) => (size, header),
    };
    let Ok(tensors) = serde_json::from_slice::<BTreeMap<String, Value>>(header.trim_ascii_end())
    else {
        return "has a damaged header, or is not a safetensors file".into();
    };
    let end = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let end = tensors.values().filter_map(end).max().unwrap_or(0);
    let whole = (size as u64).saturating_add(8).saturating_add(end);
    match (len as u64).cmp(&whole) {
        std::cmp::Ordering::Less => format!(
            "has {len} bytes of {whole}: it was downloaded or copied in part; do that again"
        ),
        std::cmp::Ordering::Greater => {
            format!("has {len} bytes where its header speaks of {whole}: it is damaged")
        }
        std::cmp::Ordering::Equal => {
            "has a header whose tensors do not fit their places: it is damaged, or keeps a type of \
             numbers that is not read"
                .into()
        }
    }
}
