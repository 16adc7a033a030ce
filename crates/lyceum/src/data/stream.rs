//! Text as its tokens come: incremental decoding.

use super::Tokenizer;
use crate::error::Result;

/// Tokens waited for before an unfinished character is given as it is. Four bytes make a
/// character, and a token is at least one of them.
const PATIENCE: usize = 16;

/// Decodes tokens one at a time, giving only whole characters.
///
/// Each step decodes a few tokens: those of the last piece given, because a decoder may treat the
/// first token of a text differently, and those not given yet.
///
/// ```
/// use lyceum::backbone::Precision;
/// use lyceum::data::TextStream;
///
/// let tokenizer = lyceum::assets::base(Precision::F32)?.tokenizer;
/// let mut stream = TextStream::new(&tokenizer);
/// let mut text = String::new();
/// for id in tokenizer.encode("café")? {
///     text += &stream.push(id)?;
/// }
/// assert_eq!(text + &stream.finish()?, "café");
/// # Ok::<(), lyceum::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the last piece given, then those not given yet.
    ids: Vec<u32>,
    /// The number of `ids` already emitted.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A text that begins.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream {
            tokenizer,
            ids: Vec::new(),
            given: 0,
        }
    }

    /// Adds a token. Returns the text it completes, empty while a character is unfinished.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.next(self.ids.len() - self.given >= PATIENCE)
    }

    /// The rest of a text that has ended, with U+FFFD for a character that never was finished.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn finish(mut self) -> Result<String> {
        self.next(true)
    }

    fn next(&mut self, all: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let now = self.tokenizer.decode(&self.ids)?;
        let new = match now.strip_prefix(&before) {
            Some(new) => new,
            // A decoder that cleans spaces may change the end of what was given.
            None => now.get(before.len()..).unwrap_or_default(),
        };
        if new.is_empty() || (new.ends_with('\u{fffd}') && !all) {
            if all {
                // Tokens without a text, such as special ones.
                self.ids.truncate(self.given);
            }
            return Ok(String::new());
        }
        let new = new.to_owned();
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The embedded base's tokenizer, byte-level pairs.
    const BYTES: &[u8] = lyceum_assets::base::TOKENIZER;

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn pieces_are_whole_characters_and_make_the_text() {
        let tokenizer = Tokenizer::from_bytes(BYTES).unwrap();
        for text in [
            " a plain text, of words",
            "caf\u{e9} \u{4f60}\u{597d} \u{1f600}\u{1f469}\u{200d}\u{1f680} end\n\n",
            "\u{1f600}",
            "",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            let pieces = pieces(&tokenizer, &ids);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{pieces:?}");
        }
        let ids = tokenizer.encode("x\u{1f600}").unwrap();
        assert!(ids.len() > 2, "the emoji takes several tokens");
        assert_eq!(pieces(&tokenizer, &ids)[1], "", "the first byte waits");
    }

    #[test]
    fn an_unfinished_character_comes_at_the_end_and_garbage_does_not_pile_up() {
        let tokenizer = Tokenizer::from_bytes(BYTES).unwrap();
        let ids = tokenizer.encode("ok \u{1f600}").unwrap();
        let cut = &ids[..ids.len() - 1];
        assert_eq!(
            pieces(&tokenizer, cut).concat(),
            tokenizer.decode(cut).unwrap()
        );
        // A byte that begins no character, a thousand times.
        let first = tokenizer.encode("\u{1f600}").unwrap()[0];
        let mut stream = TextStream::new(&tokenizer);
        for _ in 0..1000 {
            stream.push(first).unwrap();
            assert!(stream.ids.len() <= 2 * PATIENCE);
        }
    }

    #[test]
    fn a_leading_space_is_kept_between_pieces() {
        let pieces_json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
            "model": { "type": "WordLevel", "unk_token": "</s>",
                "vocab": { "</s>": 0, "\u{2581}a": 1, "\u{2581}b": 2 } },
        });
        let tokenizer = Tokenizer::from_bytes(pieces_json.to_string().as_bytes()).unwrap();
        assert_eq!(pieces(&tokenizer, &[1, 2, 1]), ["a", " b", " a", ""]);
    }
}
