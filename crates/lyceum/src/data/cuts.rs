//! Places where a long text may be cut so that the rest has the tokens it has in the whole.
//!
//! Tokenising takes a few hundred bytes of memory per byte of text, so the beginning of a very
//! long text, which is not going to be used, is cut off first. A cut stands before a space or
//! line end that follows another character and precedes a letter or digit, no token of the
//! vocabulary holds that pair of characters, and no added token touches it. Pairs are then joined
//! on both sides independently, and a pre-tokenizer that scans from left to right begins a word
//! there. Tokenizers of other kinds are not cut.

use std::collections::BTreeSet;

use serde_json::Value;
use tokenizers::models::ModelWrapper;

/// Pre-tokenizers that begin a word where a space or line end follows another character, or cut
/// nothing.
const WORDS: [&str; 8] = [
    "ByteLevel",
    "Metaspace",
    "Digits",
    "Whitespace",
    "WhitespaceSplit",
    "BertPreTokenizer",
    "Punctuation",
    "Split",
];

/// Those of them whose words hold no white space.
const SPLITS: [&str; 3] = ["Whitespace", "WhitespaceSplit", "BertPreTokenizer"];

/// Properties of a tokenizer that decide where its texts may be cut.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Characters that stand before a space in a token, in the vocabulary's alphabet.
    space: BTreeSet<char>,
    /// Characters that stand before a line end in a token.
    line: BTreeSet<char>,
    /// Tokens are written in the alphabet of bytes.
    bytes: bool,
    /// Normalisation may change other characters than ASCII.
    ascii: bool,
    /// Texts of added tokens.
    added: Vec<String>,
}

impl Cuts {
    /// `None` for a tokenizer whose texts cannot be cut.
    pub(super) fn of(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let normalizer = inner.get_normalizer();
        let normalizer = normalizer.and_then(|n| serde_json::to_value(n).ok());
        let words = inner.get_pre_tokenizer();
        let words = words.and_then(|p| serde_json::to_value(p).ok());
        let (normalizer, words) = (normalizer.unwrap_or_default(), words.unwrap_or_default());
        let normalizers = parts(&normalizer, "normalizers");
        let words = parts(&words, "pretokenizers");
        let known = |part: &&Value| WORDS.contains(&kind(part));
        if !normalizers.iter().all(|part| keeps_spaces(part)) || !words.iter().all(known) {
            return None;
        }
        let has = |all: &[&Value], name| all.iter().any(|part| kind(part) == name);
        let bytes = has(&words, "ByteLevel");
        let marked = has(&words, "Metaspace") || has(&normalizers, "Replace");
        let [space, line] = match inner.get_model() {
            // Words never reach over white space, whatever the model makes of them.
            _ if SPLITS.iter().any(|name| has(&words, name)) => Default::default(),
            ModelWrapper::BPE(bpe) if plain(bpe) => {
                let marks = match (bytes, marked) {
                    (true, _) => ['\u{120}', '\u{10a}'],
                    (false, true) => ['\u{2581}', '\n'],
                    (false, false) => [' ', '\n'],
                };
                marks.map(|mark| before(inner, mark))
            }
            _ => return None,
        };
        let added = inner.get_added_tokens_decoder();
        Some(Cuts {
            space,
            line,
            bytes,
            ascii: normalizers.iter().any(|part| kind(part).starts_with("NF")),
            added: added.into_values().map(|token| token.content).collect(),
        })
    }

    /// The first cut of `text` at or after byte `from`.
    pub(super) fn next(&self, text: &str, from: usize) -> Option<usize> {
        let from = text.ceil_char_boundary(from);
        let mut before = text[..from].chars().next_back()?;
        let mut rest = text[from..].char_indices().peekable();
        while let Some((at, this)) = rest.next() {
            let follows = rest.peek().is_some_and(|(_, next)| next.is_alphanumeric());
            if follows && self.apart(before, this) && !self.touched(text, from + at) {
                return Some(from + at);
            }
            before = this;
        }
        None
    }

    /// No token holds `before` and the space or line end `this` side by side.
    fn apart(&self, before: char, this: char) -> bool {
        if before.is_whitespace() || (self.ascii && !before.is_ascii()) {
            return false;
        }
        let held = match this {
            ' ' => &self.space,
            '\n' => &self.line,
            _ => return false,
        };
        let last = match self.bytes {
            true => {
                let mut room = [0; 4];
                let bytes = before.encode_utf8(&mut room).as_bytes();
                bytes.last().map_or(before, |byte| byte_char(*byte))
            }
            false => before,
        };
        !held.contains(&last)
    }

    /// An added token stands over byte `at` or ends or begins there.
    fn touched(&self, text: &str, at: usize) -> bool {
        let text = text.as_bytes();
        self.added.iter().any(|token| {
            let n = token.len();
            let around = &text[at.saturating_sub(n)..(at + n).min(text.len())];
            n > 0 && around.windows(n).any(|window| window == token.as_bytes())
        })
    }
}

/// The characters that stand before `mark` in a token.
fn before(inner: &tokenizers::Tokenizer, mark: char) -> BTreeSet<char> {
    let mut all = BTreeSet::new();
    for token in inner.get_vocab(false).keys() {
        let pairs = token.chars().zip(token.chars().skip(1));
        all.extend(pairs.filter(|(_, b)| *b == mark).map(|(a, _)| a));
    }
    all
}

/// A component and, of a sequence of them, every one.
fn parts<'a>(json: &'a Value, name: &str) -> Vec<&'a Value> {
    match json.get(name).and_then(Value::as_array) {
        Some(all) => all.iter().flat_map(|part| parts(part, name)).collect(),
        None if json.is_null() => Vec::new(),
        None => vec![json],
    }
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// A normalizer that neither moves spaces nor looks further than at neighbouring characters.
fn keeps_spaces(part: &Value) -> bool {
    match kind(part) {
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Prepend" => true,
        "Replace" => {
            part.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
                && part.get("content").and_then(Value::as_str) == Some("\u{2581}")
        }
        _ => false,
    }
}

/// Pairs are joined the same way every time, wherever in a word they stand.
fn plain(bpe: &tokenizers::models::bpe::BPE) -> bool {
    let none = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    bpe.dropout.is_none_or(|share| share == 0.0)
        && none(&bpe.continuing_subword_prefix)
        && none(&bpe.end_of_word_suffix)
}

/// The character that stands for a byte in byte-level vocabularies.
fn byte_char(byte: u8) -> char {
    let own = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if own(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !own(*b)).count() as u32;
    char::from_u32(256 + before).unwrap_or('\u{fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = lyceum_assets::base::TOKENIZER;

    #[test]
    fn bytes_have_the_characters_of_gpt_2() {
        assert_eq!(byte_char(b' '), '\u{120}');
        assert_eq!(byte_char(b'\n'), '\u{10a}');
        assert_eq!(byte_char(b'a'), 'a');
        assert_eq!(byte_char(0xad), '\u{143}');
        assert_eq!(byte_char(0xe9), '\u{e9}');
    }

    #[test]
    fn cuts_stand_where_no_token_reaches_over() {
        let inner = tokenizers::Tokenizer::from_bytes(BYTES).unwrap();
        let cuts = Cuts::of(&inner).unwrap();
        let text = "some  words: <|endoftext|> and\tmore\nof them";
        let all: Vec<usize> = (0..text.len())
            .filter(|at| text.is_char_boundary(*at) && cuts.next(text, *at) == Some(*at))
            .collect();
        let at = |part: &str| text.find(part).unwrap();
        // Not before the second of two spaces, nor beside the added token.
        assert!(
            all.contains(&at("\nof")) && all.contains(&at(" them")),
            "{all:?}"
        );
        assert!(
            !all.contains(&at(" and")) && !all.contains(&at("  words")),
            "{all:?}"
        );
        assert_eq!(cuts.next("nothing", 2), None);
    }
}
