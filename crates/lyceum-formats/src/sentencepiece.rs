//! Reads a `tokenizer.model`: sentencepiece's vocabulary, a protocol buffer.
//!
//! Source: `sentencepiece_model.proto` and the wire format of protocol buffers. Only vocabularies
//! of pairs are read, as Llama, Mistral, Phi-3 and Gemma have them; what else a file asks for
//! (another model, a table of normalisations) is refused by name.

use crate::error::{Error, Result};

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Text.
    Normal,
    /// Not text: beginning, end, unknown.
    Control,
    /// Text that is never cut (`USER_DEFINED`).
    Added,
    /// Unused.
    Unused,
    /// One byte, as `<0x0A>`.
    Byte,
}

/// One token; its id is its place in the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, spaces as U+2581.
    pub text: String,
    /// Pieces of a higher score are joined first.
    pub score: f64,
    /// Its kind.
    pub kind: PieceKind,
}

/// A vocabulary of byte pairs (`BPE`).
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The tokens.
    pub pieces: Vec<Piece>,
    /// A space is put before a text (`add_dummy_prefix`).
    pub space_first: bool,
    /// Id of the unknown token; none may have it.
    pub unknown: usize,
    /// Id of the token that begins a text; none may have it.
    pub begin: usize,
    /// Id of the token that ends a text; none may have it.
    pub end: usize,
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
    fn number(&mut self) -> Result<u64> {
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

    fn bytes(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).map_err(|_| "ends too early")?;
        Ok(self.0.split_off(..n).ok_or("ends too early")?)
    }

    /// The next field, or nothing at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
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
            other => return Err(format!("holds a field of unknown type {other}").into()),
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

    fn trainer(&mut self, mut trainer: Message<'_>) -> Result<()> {
        while let Some((number, field)) = trainer.next()? {
            match (number, field) {
                (3, Field::Number(kind)) => self.model = kind,
                (40..=42, Field::Number(id)) => self.ids[number as usize - 40] = id,
                (24, Field::Number(1)) => {
                    let why = "marks the ends of words, which is not supported";
                    return Err(Error::unsupported(why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, mut normalizer: Message<'_>) -> Result<()> {
        while let Some((number, field)) = normalizer.next()? {
            match (number, field) {
                (2, Field::Bytes(table)) if !table.is_empty() => {
                    let why = "has a table of normalisations, which is not supported; use the \
                               model's tokenizer.json";
                    return Err(Error::unsupported(why));
                }
                (3, Field::Number(yes)) => self.space_first = yes != 0,
                (4, Field::Number(yes)) => self.squeezes = yes != 0,
                (5, Field::Number(0)) => {
                    let why = "does not mark spaces, which is not supported";
                    return Err(Error::unsupported(why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what is not supported.
    fn check(&self) -> Result<()> {
        let Settings {
            model, squeezes, ..
        } = self;
        if *model != 2 {
            return Err(Error::unsupported(format!(
                "is a sentencepiece model of kind {model}; only pairs (2) are supported; use the \
                 model's tokenizer.json"
            )));
        }
        if *squeezes {
            let why = "squeezes spaces, which is not supported; use the model's tokenizer.json";
            return Err(Error::unsupported(why));
        }
        Ok(())
    }
}

/// Reads a `tokenizer.model`.
///
/// # Errors
/// [`Error::Malformed`], or [`Error::Unsupported`] for a model of another kind than pairs, or one
/// that normalises texts.
pub fn read(bytes: &[u8]) -> Result<Model> {
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
    let [unknown, begin, end] = ids.map(|id| usize::try_from(id).unwrap_or(usize::MAX));
    Ok(Model {
        pieces,
        space_first: settings.space_first,
        unknown,
        begin,
        end,
    })
}

fn piece(mut message: Message<'_>) -> Result<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceKind::Normal,
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
                    1 => PieceKind::Normal,
                    2 | 3 => PieceKind::Control,
                    4 => PieceKind::Added,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    other => return Err(format!("holds a token of unknown kind {other}").into()),
                };
            }
            _ => {}
        }
    }
    Ok(piece)
}
