//! The last tokens of long texts, found without tokenising the whole.

use super::{Tokenizer, guarded};
use crate::data::cuts::Cuts;
use crate::error::{Error, Result};

/// Bytes of a text that is tokenised as it is; of a longer one only the end that is needed is.
const LONG: usize = 1 << 18;

/// Bytes that are tokenised at once at most, unless more tokens are asked for than they may have:
/// a byte takes up to 170 bytes of memory.
const MOST: usize = 1 << 20;

/// Bytes of a long text between where its end is tokenised from and the first token that counts.
const MARGIN: usize = 1 << 10;

/// The tokens of a text from byte `cut` on, found by tokenising it from byte `first` on.
pub(super) struct End {
    pub(super) first: usize,
    pub(super) cut: usize,
    pub(super) ids: Vec<u32>,
}

impl Tokenizer {
    /// The last ids of `text`, at least `room` of them where it has as many.
    ///
    /// The end of a long text is tokenised alone, twice, from two places before a cut at which
    /// tokens cannot depend on what comes before; where that is not enough, more of it is, up to
    /// a bound of memory.
    pub(super) fn end(&self, text: &str, room: usize) -> Result<End> {
        let cuts = match text.len() > LONG {
            true => self.cuts.get_or_init(|| Cuts::of(&self.inner)).as_ref(),
            false => None,
        };
        let needed = room.saturating_mul(16);
        let most = needed.max(MOST);
        let mut span = needed.max(LONG / 4);
        while let (Some(cuts), true) = (cuts, span <= most && span < text.len()) {
            let first = text.floor_char_boundary(text.len() - span);
            let second = text.floor_char_boundary(first + MARGIN / 3);
            if let Some(cut) = cuts.next(text, first + MARGIN)
                && let Some(ids) = self.after(text, first, cut)?
                && ids.len() >= room
                && self.after(text, second, cut)?.as_ref() == Some(&ids)
            {
                return Ok(End { first, cut, ids });
            }
            span = span.saturating_mul(2);
        }
        if text.len() > most {
            return Err(Error::invalid(format!(
                "a text of {} bytes is too long to be tokenised: it cannot be cut to its last {room} \
                 tokens, for want of white space near its end or because this tokenizer's tokens \
                 depend on the whole text; give at most {most} bytes",
                text.len()
            )));
        }
        let (first, cut) = (0, 0);
        let ids = self.encode(text)?;
        Ok(End { first, cut, ids })
    }

    /// The ids of `text[first..]` from byte `cut` of `text` on; nothing where a token reaches over.
    pub(super) fn after(&self, text: &str, first: usize, cut: usize) -> Result<Option<Vec<u32>>> {
        if cut == first {
            return self.encode(&text[first..]).map(Some);
        }
        let encoding = guarded(|| self.inner.encode(&text[first..], false))?;
        let offsets = encoding.get_offsets();
        let at = offsets.partition_point(|(from, _)| first + from < cut);
        let over = at > 0 && first + offsets[at - 1].1 > cut;
        Ok((!over).then(|| encoding.get_ids()[at..].to_vec()))
    }
}
