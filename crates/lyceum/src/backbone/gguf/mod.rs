//! A base in one GGUF file: decoder, weights and tokenizer, as llama.cpp keeps them.
//!
//! Quantised matrices stay as they lie in the mapped file; experts adapt and route over them in
//! f32 (the arrangement of QLoRA, arXiv 2305.14314).

mod config;
mod fields;
mod names;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use lyceum_formats::gguf::{GgmlType, Header, Value};
use lyceum_kernels::map::Map;
use lyceum_kernels::quantised::Format;

use super::chat::{Chat, DEFAULT, Said};
use super::checkpoint::{Bytes, StorageType, TensorView, Weights, bad};
use super::config::{Config, Positions};
use super::parts::Parts;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::file::unread;

/// Tensors of divisors of stretched contexts.
const DIVISORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
];

/// Opens the file at `path`. A `tokenizer.json` beside it is used instead of the tokenizer in it.
///
/// # Errors
/// When it is damaged, or holds something that is not known.
pub(super) fn open(path: &Path) -> Result<Parts<'static>> {
    let what = path.display().to_string();
    let map = Arc::new(Map::open(path).map_err(|e| Error::io(path, e))?);
    crate::file::check(&what, &map)?;
    let header = Header::read(&map).map_err(|e| unread(&what, e))?;
    if let Some(Value::Whole(2..)) = header.fields.get("split.count") {
        let why = "is one of several files; merge them (llama-gguf-split --merge)";
        return Err(Error::format(what, why));
    }
    let mut found: BTreeMap<&str, TensorView<'static>> = BTreeMap::new();
    for (name, entry) in &header.tensors {
        let place = (Bytes::Map(map.clone()), entry.range.clone());
        let stored = TensorView::new(place, entry.shape.clone(), lay(name, entry.kind)?);
        found.insert(name, stored.map_err(|why| bad(name, why))?);
    }
    let numbers = |name: &str| numbers(&found, name);
    let config = config::config(&what, &header, numbers)?;
    let weights = named(&config, found)?;
    let said = said(&header);
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = match beside.is_file() {
        true => beside_file(path, &header)?,
        false => vocabulary::tokenizer(&what, &header)?,
    };
    Ok(Parts {
        name: path
            .file_stem()
            .map_or_else(|| "base".into(), |name| name.to_string_lossy().into()),
        config,
        weights,
        said,
        tokenizer,
        notes: Vec::new(),
    })
}

/// Storage type of the tensor `name`.
fn lay(name: &str, kind: GgmlType) -> Result<StorageType> {
    Ok(match kind {
        GgmlType::F64 => StorageType::F64,
        GgmlType::F32 => StorageType::F32,
        GgmlType::F16 => StorageType::F16,
        GgmlType::Bf16 => StorageType::Bf16,
        GgmlType::Q4_0 => StorageType::Blocks(Format::Q4_0),
        GgmlType::Q4_1 => StorageType::Blocks(Format::Q4_1),
        GgmlType::Q5_0 => StorageType::Blocks(Format::Q5_0),
        GgmlType::Q5_1 => StorageType::Blocks(Format::Q5_1),
        GgmlType::Q8_0 => StorageType::Blocks(Format::Q8_0),
        GgmlType::Q4_K => StorageType::Blocks(Format::Q4_K),
        GgmlType::Q5_K => StorageType::Blocks(Format::Q5_K),
        GgmlType::Q6_K => StorageType::Blocks(Format::Q6_K),
        other => {
            let why = format!("is kept as {other:?}, which is not supported");
            return Err(bad(name, &why));
        }
    })
}

/// The values of a small tensor, if it is there.
fn numbers(found: &BTreeMap<&str, TensorView<'_>>, name: &str) -> Result<Option<Vec<f32>>> {
    let Some(stored) = found.get(name) else {
        return Ok(None);
    };
    let n = stored.shape.iter().product::<usize>();
    if n > 1 << 16 {
        return Err(bad(name, "is out of range"));
    }
    let mut all = Vec::new();
    stored.each(|values| all.extend_from_slice(values))?;
    Ok(Some(all))
}

/// The tensors by the checkpoint's names, their rows in the checkpoint's order.
fn named(config: &Config, found: BTreeMap<&str, TensorView<'static>>) -> Result<Weights<'static>> {
    let mut all = BTreeMap::new();
    for (ggml, stored) in found {
        // Read with the configuration.
        let turns = matches!(config.positions, Positions::Rotary(_));
        if turns && DIVISORS.contains(&ggml) {
            continue;
        }
        let Some(name) = names::name(config, ggml) else {
            return Err(Error::Mismatch(format!(
                "the file holds a tensor `{ggml}` that its architecture does not explain"
            )));
        };
        let stored = stored.ordered(config::order(config, ggml));
        let stored = stored.map_err(|why| bad(ggml, why))?;
        if all.insert(name, stored).is_some() {
            return Err(bad(ggml, "is there under two names"));
        }
    }
    Ok(Weights::found(all))
}

/// Tokens that end a text, and the chat templates.
fn said(header: &Header<'_>) -> Said {
    let id = |name: &str| match header.fields.get(format!("tokenizer.ggml.{name}").as_str()) {
        Some(Value::Whole(id)) => u32::try_from(*id).ok(),
        _ => None,
    };
    let names = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let stops: BTreeSet<u32> = names.into_iter().filter_map(id).collect();
    let tokens = [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ];
    let text = |name: &str| vocabulary::token(header, id(name)?).map(str::to_owned);
    let tokens = tokens
        .into_iter()
        .filter_map(|(name, field)| Some((name.to_owned(), text(field)?)));
    let template = |(name, value): (&&str, &Value<'_>)| {
        let rest = name.strip_prefix("tokenizer.chat_template")?;
        let name = match rest {
            "" => DEFAULT,
            named => named.strip_prefix('.')?,
        };
        match value {
            Value::Text(template) => Some((name.to_owned(), (*template).to_owned())),
            _ => None,
        }
    };
    let templates = header.fields.iter().filter_map(template);
    let chat = Chat::new(templates.collect(), tokens.collect());
    Said { stops, chat }
}

/// The tokenizer.json beside the file, used in place of the tokenizer in it.
fn beside_file(path: &Path, header: &Header<'_>) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::open(path.parent().unwrap_or(Path::new(".")))?;
    let puts = !tokenizer.start().is_empty();
    if vocabulary::adds_bos(header).is_some_and(|flag| flag != puts) {
        let (done, other) = match puts {
            true => ("puts a beginning-of-text token before a text", "none"),
            false => ("puts nothing before a text", "one"),
        };
        tokenizer.note(format!(
            "the tokenizer.json beside {} {done}, but the file's own add_bos_token says {other}; \
             tokenizer.json is followed",
            path.display()
        ));
    }
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_a_tensor_lies_in_as_many_bytes_as_its_file_has() {
        for kind in GgmlType::ALL {
            let lay = lay("w", kind).unwrap();
            for n in [1, 31, 32, 33, 256, 257, 4096] {
                assert_eq!(lay.bytes(n), kind.row_bytes(n), "{kind:?} {n}");
            }
        }
    }
}
