//! Values that are not used: checked and passed over, without recursion.

use super::{Json, Why};

/// Deepest nesting that is read.
const DEPTH: usize = 512;

impl Json<'_> {
    fn digits(&mut self) -> Why<()> {
        let rest = self.rest();
        let end = { rest.bytes() }.position(|byte| !byte.is_ascii_digit());
        let n = end.unwrap_or(rest.len());
        self.at += n;
        match n {
            0 => Err("a number lacks its digits".into()),
            _ => Ok(()),
        }
    }

    /// Passes over a number.
    pub(super) fn number(&mut self) -> Why<()> {
        let on = |json: &Self, chars: &str| json.rest().starts_with(|c| chars.contains(c));
        self.at += usize::from(on(self, "-"));
        match on(self, "0") {
            true => self.at += 1,
            false => self.digits()?,
        }
        if on(self, ".") {
            self.at += 1;
            self.digits()?;
        }
        if on(self, "eE") {
            self.at += 1;
            self.at += usize::from(on(self, "+-"));
            self.digits()?;
        }
        match on(self, "0123456789.") {
            true => Err("a number is malformed".into()),
            false => Ok(()),
        }
    }

    /// Passes over a value that is neither a list nor an object.
    fn simple(&mut self) -> Why<()> {
        match self.peek() {
            Some(b'"') => return self.string().map(drop),
            Some(b'-' | b'0'..=b'9') if !self.rest().starts_with("-I") => return self.number(),
            _ => {}
        }
        let words = ["null", "true", "false", "NaN", "Infinity", "-Infinity"];
        let word = { words.into_iter() }.find(|word| {
            let after = self.rest().strip_prefix(word);
            after.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        });
        match word {
            Some(word) => self.at += word.len(),
            None => return Err(self.expected("a value")),
        }
        Ok(())
    }

    /// Passes over a value of any kind.
    pub(in crate::data) fn skip(&mut self) -> Why<()> {
        // Whether each of the open things is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            // A value begins.
            match self.peek() {
                Some(next @ (b'{' | b'[')) => {
                    self.at += 1;
                    let close = if next == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        if open.len() == DEPTH {
                            return Err(format!("it is nested deeper than {DEPTH} levels"));
                        }
                        open.push(next == b'{');
                        self.key(open.last())?;
                        continue;
                    }
                }
                _ => self.simple()?,
            }
            // It has ended, and perhaps what it is in.
            loop {
                let Some(object) = open.last().copied() else {
                    return Ok(());
                };
                if self.take(b',') {
                    self.key(open.last())?;
                    break;
                }
                if !self.take(if object { b'}' } else { b']' }) {
                    let close = if object { "`,` or `}`" } else { "`,` or `]`" };
                    return Err(self.expected(close));
                }
                open.pop();
            }
        }
    }

    /// Passes over a field's name, within an object.
    fn key(&mut self, object: Option<&bool>) -> Why<()> {
        if object != Some(&true) {
            return Ok(());
        }
        if self.peek() != Some(b'"') {
            return Err(self.expected("a field's name in double quotes"));
        }
        self.string()?;
        match self.take(b':') {
            true => Ok(()),
            false => Err(self.expected("`:` after a field's name")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_is_passed_over_and_checked() {
        let skip = |text: &str| {
            let mut json = Json::new(text);
            json.skip().and_then(|()| match json.peek() {
                None => Ok(()),
                Some(_) => Err("more".into()),
            })
        };
        for good in [
            r#"{"a": [1, -0.5e+3, {"b": NaN}, [], {}], "c": {"d": -Infinity}} "#,
            "[Infinity, true, false, null]",
            "0",
            "1e9",
        ] {
            skip(good).unwrap();
        }
        for bad in [
            "",
            "[",
            "{",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,}",
            "{1:2}",
            "[1}",
            "{\"a\":1]",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            "nul",
            "nullx",
            "NaNs",
            "1 2",
            "{'a': 1}",
            "[\"\\q\"]",
        ] {
            assert!(skip(bad).is_err(), "{bad}");
        }
        skip(&("[".repeat(500) + &"]".repeat(500))).unwrap();
        for open in ["[", "{\"a\":"] {
            let error = skip(&open.repeat(1 << 20)).unwrap_err();
            assert!(error.contains("nested deeper"), "{error}");
        }
    }
}
