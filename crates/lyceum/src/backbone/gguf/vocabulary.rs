//! The tokenizer inside a GGUF file, put into the words of a `tokenizer.json`.
//!
//! Two kinds are read: `llama`, a sentencepiece vocabulary whose scores say what is joined first,
//! and `gpt2`, byte-level pairs with a list of merges and a named way to cut a text into words.

use lyceum_formats::gguf::{Header, List, Value};
use serde_json::{Value as Json, json};

use crate::data::{Around, Tokenizer, Vocabulary, Words, byte_level};
use crate::error::{Error, Result};
use lyceum_formats::sentencepiece::{Piece, PieceKind};

fn field<'a>(header: &Header<'a>, name: &str) -> Option<Value<'a>> {
    let name = format!("tokenizer.ggml.{name}");
    header.fields.get(name.as_str()).copied()
}

fn list<'a>(header: &Header<'a>, name: &str) -> Option<List<'a>> {
    match field(header, name) {
        Some(Value::List(list)) => Some(list),
        _ => None,
    }
}

/// The text of token `id`.
pub(super) fn token<'a>(header: &Header<'a>, id: u32) -> Option<&'a str> {
    match list(header, "tokens")?.iter().nth(id as usize) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// The tokenizer of the file, which errors call `what`.
pub(super) fn tokenizer(what: &str, header: &Header<'_>) -> Result<Tokenizer> {
    let bad = |why: String| {
        Error::format(
            what,
            format!("{why}; put the model's tokenizer.json beside the file"),
        )
    };
    let Some(Value::Text(model)) = field(header, "model") else {
        return Err(bad("holds no tokenizer".into()));
    };
    let pieces = row_chunks(header).map_err(&bad)?;
    let id = |name: &str| match field(header, name) {
        Some(Value::Whole(id)) => usize::try_from(id).ok().filter(|id| *id < pieces.len()),
        _ => None,
    };
    let flag = |name: &str, default: bool| match field(header, name) {
        Some(Value::Bool(flag)) => flag,
        _ => default,
    };
    let add = |default: bool| flag("add_bos_token", default);
    let bos = id("bos_token_id");
    let (json, add) = match model {
        "llama" => {
            let vocabulary = Vocabulary {
                pieces: &pieces,
                space_first: flag("add_space_prefix", true),
                start: bos.filter(|_| add(true)),
                unknown: id("unknown_token_id").unwrap_or(0),
            };
            (vocabulary.tokenizer_json(), add(true))
        }
        "gpt2" => {
            let merges = merges(header).map_err(&bad)?;
            let Some(Value::Text(pre)) = field(header, "pre") else {
                return Err(bad("does not say how its tokenizer cuts words".into()));
            };
            let words = words(pre)
                .ok_or_else(|| bad(format!("cuts words by `{pre}`, which is not known")))?;
            let add = add(words.whole);
            let start = bos.filter(|_| add);
            (byte_level(&pieces, &merges, &words, start), add)
        }
        other => {
            return Err(bad(format!(
                "has a tokenizer `{other}`, which is not known"
            )));
        }
    };
    let bytes = serde_json::to_vec(&json).map_err(|e| Error::format(what, e))?;
    let text = |id: usize| pieces[id].text.clone();
    let around = Around {
        file: format!("{what} (tokenizer.ggml)"),
        bos: bos.map(text),
        eos: id("eos_token_id").map(text),
        add_bos: Some(add),
        add_eos: Some(flag("add_eos_token", false)),
        ..Around::default()
    };
    Tokenizer::named(&bytes, &around)
}

/// `add_bos_token`, where the file has it.
pub(super) fn adds_bos(header: &Header<'_>) -> Option<bool> {
    match field(header, "add_bos_token") {
        Some(Value::Bool(flag)) => Some(flag),
        _ => None,
    }
}

fn row_chunks(header: &Header<'_>) -> Result<Vec<Piece>, String> {
    let tokens = list(header, "tokens").ok_or("holds no tokens")?;
    let mut scores = list(header, "scores").map(List::iter);
    let mut kinds = list(header, "token_type").map(List::iter);
    let mut all = Vec::new();
    for token in tokens.iter() {
        let Value::Text(text) = token else {
            return Err("has tokens that are not texts".into());
        };
        let score = match scores.as_mut().map(Iterator::next) {
            None => 0.0,
            Some(Some(Value::Real(score))) => score,
            Some(_) => return Err("holds tokens without a score".into()),
        };
        let kind = match kinds.as_mut().map(Iterator::next) {
            None | Some(Some(Value::Whole(1))) => PieceKind::Normal,
            Some(Some(Value::Whole(2 | 3))) => PieceKind::Control,
            Some(Some(Value::Whole(4))) => PieceKind::Added,
            Some(Some(Value::Whole(5))) => PieceKind::Unused,
            Some(Some(Value::Whole(6))) => PieceKind::Byte,
            Some(_) => return Err("holds tokens of unknown kinds".into()),
        };
        all.push(Piece {
            text: text.to_owned(),
            score,
            kind,
        });
    }
    Ok(all)
}

fn merges<'a>(header: &Header<'a>) -> Result<Vec<(&'a str, &'a str)>, String> {
    let merges = list(header, "merges").ok_or("holds no merges")?;
    let pair = |merge: Value<'a>| match merge {
        Value::Text(text) => text.split_once(' '),
        _ => None,
    };
    let all: Option<Vec<_>> = merges.iter().map(pair).collect();
    all.ok_or_else(|| "has merges that are not pairs".into())
}

/// The pre-tokenizer that llama.cpp calls `name`.
fn words(name: &str) -> Option<Words> {
    let bytes = |own: bool| {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": own })
    };
    // What the tokenizers of Llama 3 and of Qwen 2 share; numbers are cut in threes or in ones.
    let split = |digits: &str| {
        let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
        let others = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        json!({ "type": "Split", "pattern": { "Regex": format!("{words}|{digits}|{others}") },
                "behavior": "Isolated", "invert": false })
    };
    let two = |all: [Json; 2]| json!({ "type": "Sequence", "pretokenizers": all });
    let (cut, composed, whole) = match name {
        "gpt-2" | "phi-2" | "olmo" | "mpt" => (bytes(true), false, false),
        "smollm" => {
            let digits = json!({ "type": "Digits", "individual_digits": true });
            (two([digits, bytes(true)]), false, false)
        }
        "llama-bpe" | "llama3" | "llama-v3" => {
            (two([split(r"\p{N}{1,3}"), bytes(false)]), false, true)
        }
        "qwen2" => (two([split(r"\p{N}"), bytes(false)]), true, false),
        _ => return None,
    };
    Some(Words {
        cut,
        composed,
        whole,
    })
}
