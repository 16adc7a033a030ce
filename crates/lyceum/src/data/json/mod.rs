//! JSON, value by value, with errors for people.
//!
//! Only the fields that are used become values; the others are checked and passed over. Beyond
//! the standard, what Python's `json.dumps` writes is read: `NaN` and `Infinity` where they are
//! passed over, and halves of surrogate pairs, which no UTF-8 can hold, as U+FFFD.

mod skip;

use super::Why;

/// Characters of a text or number that an error shows.
const SHOWN: usize = 24;

/// A text, with `broken` set if an unpaired surrogate in it became U+FFFD.
#[derive(Debug, PartialEq)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) broken: bool,
}

/// A reader of one text.
#[derive(Debug, Clone)]
pub(super) struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Json { text, at: 0 }
    }

    /// A reader that has gone over `at` bytes, where a value begins.
    pub(super) fn from(text: &'a str, at: usize) -> Self {
        Json { text, at }
    }

    /// The byte offset of the reader.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The line it has come to, counted from 1.
    pub(super) fn line(&self) -> usize {
        let before = self.text.as_bytes().get(..self.at).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next byte, white space passed over, as are the marks that `cat` leaves between files
    /// that begin with one.
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let rest = self.rest();
            match rest.as_bytes() {
                [b' ' | b'\t' | b'\n' | b'\r', ..] => self.at += 1,
                [0xef, 0xbb, 0xbf, ..] => self.at += 3,
                bytes => return bytes.first().copied(),
            }
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    /// Goes over `null`, if it is next.
    pub(super) fn null(&mut self) -> bool {
        let there = self.peek() == Some(b'n') && self.rest().starts_with("null");
        self.at += if there { 4 } else { 0 };
        there
    }

    /// The next value in words, for errors.
    pub(super) fn shown(&mut self) -> String {
        let Some(next) = self.peek() else {
            return "the end".into();
        };
        let word: String = { self.rest().chars() }
            .take_while(|c| c.is_alphanumeric() || "-+.".contains(*c))
            .take(SHOWN)
            .collect();
        match next {
            b'{' => "an object".into(),
            b'[' => "a list".into(),
            b'"' => "a text".into(),
            b'-' | b'0'..=b'9' if word != "-Infinity" => format!("the number {word}"),
            _ if word.is_empty() => {
                let odd = self.rest().chars().next().unwrap_or_default();
                match odd.is_control() {
                    true => format!("`{}`", odd.escape_default()),
                    false => format!("`{odd}`"),
                }
            }
            _ => word,
        }
    }

    fn expected(&mut self, what: &str) -> String {
        format!("expected {what}, found {}", self.shown())
    }

    /// Reads an object; `each` reads the value of every field, given its name.
    pub(super) fn object(&mut self, mut each: impl FnMut(&mut Self, &str) -> Why<()>) -> Why<()> {
        if !self.take(b'{') {
            return Err(self.expected("an object"));
        }
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a field's name in double quotes"));
            }
            let name = self.string()?.text;
            if !self.take(b':') {
                let name = short(&name);
                return Err(self.expected(&format!("`:` after the field name `{name}`")));
            }
            each(self, &name)?;
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                let name = short(&name);
                return Err(self.expected(&format!("`,` or `}}` after the field `{name}`")));
            }
        }
    }

    /// Reads a list; `each` reads every item, given its number from 1.
    pub(super) fn list(&mut self, mut each: impl FnMut(&mut Self, usize) -> Why<()>) -> Why<()> {
        if !self.take(b'[') {
            return Err(self.expected("a list"));
        }
        if self.take(b']') {
            return Ok(());
        }
        for number in 1.. {
            each(self, number)?;
            if self.take(b']') {
                break;
            }
            if !self.take(b',') {
                return Err(self.expected(&format!("`,` or `]` after item {number} of a list")));
            }
        }
        Ok(())
    }

    /// Reads a text.
    pub(super) fn string(&mut self) -> Why<Text> {
        if !self.take(b'"') {
            return Err(self.expected("a text"));
        }
        let (mut text, mut broken) = (String::new(), false);
        loop {
            let rest = self.rest();
            let plain = |byte: u8| byte != b'"' && byte != b'\\' && byte >= b' ';
            let end = rest.bytes().position(|byte| !plain(byte));
            let end = end.ok_or("it ends within a text")?;
            // Both ends lie before an ASCII character.
            text.push_str(rest.get(..end).unwrap_or_default());
            self.at += end;
            match rest.as_bytes().get(end) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Text { text, broken });
                }
                Some(b'\\') => {
                    let c = self.escape()?;
                    broken |= c.is_none();
                    text.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                Some(b'\n' | b'\r') => return Err("a line ends within a text".into()),
                _ => return Err("a text holds a bare control character".into()),
            }
        }
    }

    /// An escaped character; `None` for an unpaired surrogate.
    fn escape(&mut self) -> Why<Option<char>> {
        let kind = self.text.as_bytes().get(self.at + 1).copied();
        let plain = match kind.ok_or("it ends within a text")? {
            b'u' => {
                let first = self.unit(self.at)?;
                self.at += 6;
                let second = match first {
                    0xd800..=0xdbff => self.unit(self.at).ok(),
                    _ => None,
                };
                let pair = [Some(first), second].into_iter().flatten();
                return match char::decode_utf16(pair).next() {
                    Some(Ok(c)) => {
                        self.at += 6 * (c.len_utf16() - 1);
                        Ok(Some(c))
                    }
                    _ => Ok(None),
                };
            }
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            same @ (b'"' | b'\\' | b'/') => same.into(),
            _ => {
                let shown: String = self.rest().chars().take(2).collect();
                return Err(format!("a text holds the unknown escape `{shown}`"));
            }
        };
        self.at += 2;
        Ok(Some(plain))
    }

    /// The code unit of the escape `\uXXXX` at `at`.
    fn unit(&self, at: usize) -> Why<u16> {
        let digits = { self.text.get(at..) }
            .and_then(|rest| rest.strip_prefix("\\u"))
            .and_then(|rest| rest.get(..4))
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        digits
            .and_then(|digits| u16::from_str_radix(digits, 16).ok())
            .ok_or_else(|| "a text holds `\\u` without four hexadecimal digits".into())
    }

    /// Reads a whole number that is not negative.
    pub(super) fn whole(&mut self) -> Why<usize> {
        let shown = self.shown();
        let start = self.at;
        let number = match self.peek() {
            Some(b'0'..=b'9') => {
                self.number()?;
                self.text.get(start..self.at).and_then(|n| n.parse().ok())
            }
            _ => None,
        };
        number.ok_or_else(|| format!("expected a whole number, found {shown}"))
    }
}

/// A name as errors show it: its beginning, without what would change a terminal.
fn short(name: &str) -> String {
    let shown = name.chars().map(|c| if c.is_control() { '?' } else { c });
    shown.take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> Why<Text> {
        Json::new(json).string()
    }

    #[test]
    fn texts_are_read_as_python_reads_them() {
        let good = |json: &str, wanted: &str, broken: bool| {
            let text = text(json).unwrap();
            assert_eq!(
                (text.text.as_str(), text.broken),
                (wanted, broken),
                "{json}"
            );
        };
        good(r#""a\n\"\\\/\u00e9\ud83d\ude00""#, "a\n\"\\/é😀", false);
        good(
            "\"a\u{2028}b\u{85}\u{7f}\"",
            "a\u{2028}b\u{85}\u{7f}",
            false,
        );
        // Halves of pairs, before a letter, another half and the end.
        good(r#""\ud83dx""#, "\u{fffd}x", true);
        good(r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀", true);
        good(r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}", true);
        good(r#""\ud83d\n""#, "\u{fffd}\n", true);
        for (bad, why) in [
            ("\"a", "ends within a text"),
            ("\"a\\", "ends within a text"),
            ("\"a\nb\"", "a line ends within"),
            ("\"\u{1}\"", "control character"),
            (r#""\x""#, r"`\x`"),
            (r#""\u12""#, "four hexadecimal"),
            (r#""\u+123""#, "four hexadecimal"),
            ("3", "expected a text, found the number 3"),
            ("NaN", "expected a text, found NaN"),
            ("-Infinity", "found -Infinity"),
            ("'a'", "found `'`"),
            ("", "found the end"),
        ] {
            let error = text(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn whole_numbers_are_told_from_others() {
        let whole = |text: &str| Json::new(text).whole();
        assert_eq!(whole(" 12,").unwrap(), 12);
        for bad in [
            "-1",
            "1.0",
            "1e2",
            "\"1\"",
            "99999999999999999999",
            "null",
            "true",
        ] {
            assert!(
                whole(bad).unwrap_err().contains("a whole number, found"),
                "{bad}"
            );
        }
    }
}
