//! Vocabularies without a `tokenizer.json`: sentencepiece's, and byte-level pairs.
//!
//! Both are put into the words of a `tokenizer.json`. A sentencepiece vocabulary of pairs says by
//! its scores what is joined first; a `tokenizer.json` lists the joins. Sources: sentencepiece's
//! `sentencepiece_model.proto`, the GGUF specification, and the format of the tokenizers crate.

use std::collections::BTreeMap;

use lyceum_formats::sentencepiece::{Model, Piece, PieceKind};
use serde_json::{Map, Value, json};

/// The mark of a word's beginning.
const SPACE: &str = "\u{2581}";

/// A sentencepiece vocabulary of pairs.
#[derive(Debug)]
pub(crate) struct Vocabulary<'a> {
    pub(crate) pieces: &'a [Piece],
    /// `true` if a space is put before a text.
    pub(crate) space_first: bool,
    /// The token put before a text.
    pub(crate) start: Option<usize>,
    pub(crate) unknown: usize,
}

impl<'a> Vocabulary<'a> {
    /// That of a `tokenizer.model`; `starts` puts its beginning token before a text.
    pub(crate) fn of(model: &'a Model, starts: bool) -> Self {
        Vocabulary {
            pieces: &model.pieces,
            space_first: model.space_first,
            start: Some(model.begin).filter(|id| starts && *id < model.pieces.len()),
            unknown: model.unknown,
        }
    }

    /// Converts the vocabulary to the contents of a `tokenizer.json`.
    pub(crate) fn tokenizer_json(&self) -> Value {
        let text = |text: &str| json!({ "String": text });
        let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": text(from), "content": to });
        let mut normalizers = vec![replace(" ", SPACE)];
        let mut decoders = vec![
            replace(SPACE, " "),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self.space_first {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = self.pieces.get(self.unknown).map(|piece| &piece.text);
        json!({
            "version": "1.0",
            "added_tokens": added(self.pieces),
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "post_processor": template(self.pieces, self.start),
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": { "type": "BPE", "unk_token": unknown, "fuse_unk": true,
                "byte_fallback": true, "vocab": ids(self.pieces), "merges": self.merges() },
        })
    }

    /// Every way to join two pieces to a third, the third's best score first.
    fn merges(&self) -> Vec<Value> {
        let joined = |piece: &&Piece| matches!(piece.kind, PieceKind::Normal);
        let known: BTreeMap<&str, usize> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.kind != PieceKind::Control)
            .map(|(id, piece)| (piece.text.as_str(), id))
            .collect();
        let mut merges: Vec<(f64, usize, usize)> = Vec::new();
        for Piece { text, score, .. } in self.pieces.iter().filter(joined) {
            for (at, _) in text.char_indices().skip(1) {
                if let (Some(a), Some(b)) = (known.get(&text[..at]), known.get(&text[at..])) {
                    merges.push((*score, *a, *b));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let text = |id: usize| &self.pieces[id].text;
        let merges = merges.iter().map(|(_, a, b)| json!([text(*a), text(*b)]));
        merges.collect()
    }
}

/// Settings for splitting a text into words, whose bytes are then merged.
#[derive(Debug)]
pub(crate) struct Words {
    /// The pre-tokenizer.
    pub(crate) cut: Value,
    /// `true` if the text is normalised to Unicode's NFC first.
    pub(crate) composed: bool,
    /// `true` if a word that is a token is taken without merging.
    pub(crate) whole: bool,
}

/// Byte-level pairs as a `tokenizer.json`: `merges` best first, `start` the token put before a
/// text.
pub(crate) fn byte_level(
    pieces: &[Piece],
    merges: &[(&str, &str)],
    words: &Words,
    start: Option<usize>,
) -> Value {
    let merges: Vec<Value> = merges.iter().map(|(a, b)| json!([a, b])).collect();
    json!({
        "version": "1.0",
        "added_tokens": added(pieces),
        "normalizer": words.composed.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": words.cut,
        "post_processor": template(pieces, start),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true },
        "model": { "type": "BPE", "vocab": ids(pieces), "merges": merges,
            "ignore_merges": words.whole },
    })
}

fn ids(pieces: &[Piece]) -> Map<String, Value> {
    let ids = pieces.iter().enumerate();
    ids.map(|(id, piece)| (piece.text.clone(), id.into()))
        .collect()
}

fn added(pieces: &[Piece]) -> Vec<Value> {
    let token = |(id, piece): (usize, &Piece)| {
        let special = match piece.kind {
            PieceKind::Control => true,
            PieceKind::Added => false,
            PieceKind::Normal | PieceKind::Unused | PieceKind::Byte => return None,
        };
        Some(
            json!({ "id": id, "content": piece.text, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special }),
        )
    };
    pieces.iter().enumerate().filter_map(token).collect()
}

fn template(pieces: &[Piece], start: Option<usize>) -> Value {
    let Some((id, piece)) = start.and_then(|id| Some((id, pieces.get(id)?))) else {
        return Value::Null;
    };
    let name = &piece.text;
    let first = json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    json!({ "type": "TemplateProcessing",
        "single": [first, sequence("A")], "pair": [first, sequence("A"), sequence("B")],
        "special_tokens": { name: { "id": name, "ids": [id], "tokens": [name] } } })
}
