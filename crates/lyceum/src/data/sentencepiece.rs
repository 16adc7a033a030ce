//! Reading a `tokenizer.model`: sentencepiece's vocabulary, a protocol buffer.
//!
//! Source: `sentencepiece_model.proto` and the wire format of protocol buffers. Only vocabularies
//! of pairs are read, as Llama, Mistral, Phi-3 and Gemma have them; what else a file asks for
//! (another model, a table of normalisations) is refused by name.

use super::pieces::{Kind, Piece, Vocabulary};

/// A `tokenizer.json`, and the tokens that begin and end a text.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) json: serde_json::Value,
    pub(super) begin: Option<String>,
    pub(super) end: Option<String>,
}

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Word(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, by number.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("ends too early")?;
            self.0 = rest;
            number |= u64::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return Ok(number);
            }
        }
        Err("holds a number without an end".into())
    }

    fn bytes(&mut self, n: u64) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).map_err(|_| "ends too early")?;
        Ok(self.0.split_off(..n).ok_or("ends too early")?)
    }

    /// The next field, or nothing at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.number()?;
        let field = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => Field::Bytes(self.bytes(8)?),
            2 => {
                let n = self.number()?;
                Field::Bytes(self.bytes(n)?)
            }
            5 => {
                let bytes = self.bytes(4)?.try_into().map_err(|_| "ends too early")?;
                Field::Word(u32::from_le_bytes(bytes))
            }
            other => return Err(format!("holds a field of unknown type {other}")),
        };
        Ok(Some((tag >> 3, field)))
    }
}

/// The settings of a file that matter here.
struct Settings {
    /// The kind of the model.
    model: u64,
    /// The ids of unknown, beginning and end.
    ids: [u64; 3],
    /// A space is put before a text.
    space_first: bool,
    /// Spaces beside each other become one.
    squeezes: bool,
}

impl Settings {
    /// The settings that hold when the file is silent: unigram, for one.
    fn silent() -> Self {
        Settings {
            model: 1,
            ids: [0, 1, 2],
            space_first: true,
            squeezes: true,
        }
    }

    fn trainer(&mut self, mut trainer: Message<'_>) -> Result<(), String> {
        while let Some((number, field)) = trainer.next()? {
            match (number, field) {
                (3, Field::Number(kind)) => self.model = kind,
                (40..=42, Field::Number(id)) => self.ids[number as usize - 40] = id,
                (24, Field::Number(1)) => {
                    return Err("marks the ends of words, which is not supported".into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, mut normalizer: Message<'_>) -> Result<(), String> {
        while let Some((number, field)) = normalizer.next()? {
            match (number, field) {
                (2, Field::Bytes(table)) if !table.is_empty() => {
                    return Err("has a table of normalisations, which is not \
                                supported; use the model's tokenizer.json"
                        .into());
                }
                (3, Field::Number(yes)) => self.space_first = yes != 0,
                (4, Field::Number(yes)) => self.squeezes = yes != 0,
                (5, Field::Number(0)) => {
                    return Err("does not mark spaces, which is not supported".into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what is not supported.
    fn check(&self) -> Result<(), String> {
        let Settings {
            model, squeezes, ..
        } = self;
        if *model != 2 {
            return Err(format!(
                "is a sentencepiece model of kind {model}; only pairs (2) are supported; use the \
                 model's tokenizer.json"
            ));
        }
        if *squeezes {
            return Err(
                "squeezes spaces, which is not supported; use the model's tokenizer.json".into(),
            );
        }
        Ok(())
    }
}

/// Reads a vocabulary; `starts` says whether its beginning token is put before a text.
pub(super) fn read(bytes: &[u8], starts: bool) -> Result<Found, String> {
    let mut file = Message(bytes);
    let mut pieces = Vec::new();
    let mut settings = Settings::silent();
    while let Some((number, field)) = file.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => pieces.push(piece(Message(bytes))?),
            (2, Field::Bytes(bytes)) => settings.trainer(Message(bytes))?,
            (3, Field::Bytes(bytes)) => settings.normalizer(Message(bytes))?,
            _ => {}
        }
    }
    settings.check()?;
    let ids = settings.ids;
    let [unknown, start, end] = ids.map(|id| usize::try_from(id).unwrap_or(usize::MAX));
    let vocabulary = Vocabulary {
        pieces: &pieces,
        space_first: settings.space_first,
        start: (starts && start < pieces.len()).then_some(start),
        unknown,
    };
    Ok(Found {
        json: vocabulary.tokenizer_json(),
        begin: pieces.get(start).map(|piece| piece.text.clone()),
        end: pieces.get(end).map(|piece| piece.text.clone()),
    })
}

fn piece(mut message: Message<'_>) -> Result<Piece, String> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
    };
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "has text that is not UTF-8")?;
                piece.text = text.to_owned();
            }
            (2, Field::Word(bits)) => piece.score = f32::from_bits(bits).into(),
            (3, Field::Number(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 | 3 => Kind::Control,
                    4 => Kind::Added,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("holds a token of unknown kind {other}")),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}
