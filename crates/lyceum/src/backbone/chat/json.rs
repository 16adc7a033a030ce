//! `tojson` as transformers defines it: Python's `json.dumps`.

use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, Value};

/// Bytes that all uses of `tojson` in one rendering may write.
pub(super) const MOST: usize = 1 << 24;

/// Deepest nesting that is written. Python gives up near 1000.
const DEPTH: usize = 200;

/// The arguments of `json.dumps` that templates may give.
struct Dumps {
    ascii: bool,
    /// Written once per level at the beginning of a line; everything in one line without.
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    sort_keys: bool,
    /// Bytes that may be written.
    most: usize,
}

/// The filter `tojson` of a value, which may take up `left` bytes; the arguments after the value
/// may be given by place or by name.
pub(super) fn tojson(args: Rest<ValueOrKwargs>, left: &AtomicUsize) -> Result<String, Error> {
    let args = args.into_values();
    let (given, named) = from_args::<(Rest<Value>, Kwargs)>(&args)?;
    let Some((value, given)) = given.split_first() else {
        return Err(wrong("tojson needs a value"));
    };
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if given.len() > names.len() {
        return Err(wrong("tojson has too many arguments"));
    }
    let mut found = names.map(|_| Value::from(()));
    for (i, name) in names.into_iter().enumerate() {
        match (given.get(i), named.has(name)) {
            (Some(_), true) => return Err(wrong(format!("tojson got `{name}` twice"))),
            (Some(value), false) => found[i] = value.clone(),
            (None, true) => found[i] = named.get(name)?,
            (None, false) => {}
        }
    }
    named.assert_all_used()?;
    let [ascii, indent, between, sort_keys] = found;
    let indent = spaces(&indent)?;
    let separators = match between.is_none() {
        true => (
            if indent.is_some() { "," } else { ", " }.into(),
            ": ".into(),
        ),
        false => pair(&between)?,
    };
    let how = Dumps {
        ascii: ascii.is_true(),
        indent,
        separators,
        sort_keys: sort_keys.is_true(),
        most: left.load(Ordering::Relaxed),
    };
    let mut out = String::new();
    how.write(value, 0, &mut out)?;
    left.store(how.most.saturating_sub(out.len()), Ordering::Relaxed);
    Ok(out)
}

fn wrong(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}

/// The indentation per level, from a number of spaces or a text.
fn spaces(indent: &Value) -> Result<Option<String>, Error> {
    if indent.is_none() || indent.is_undefined() {
        return Ok(None);
    }
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.into()));
    }
    let number = match indent.kind() {
        ValueKind::Bool => Some(i64::from(indent.is_true())),
        ValueKind::Number if indent.is_integer() => indent.as_i64(),
        _ => None,
    };
    let number = number.ok_or_else(|| wrong("tojson's indent must be a whole number or a text"))?;
    let number = usize::try_from(number).unwrap_or(0);
    if number > 1000 {
        return Err(wrong("tojson's indent is too large"));
    }
    Ok(Some(" ".repeat(number)))
}

fn pair(separators: &Value) -> Result<(String, String), Error> {
    let items: Vec<Value> = separators.try_iter()?.collect();
    match items.as_slice() {
        [item, key] => {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let both = text(item).zip(text(key));
            both.ok_or_else(|| wrong("tojson's separators must be texts"))
        }
        _ => Err(wrong("tojson's separators must be two texts")),
    }
}

impl Dumps {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(wrong("tojson's value is nested too deeply"));
        }
        if out.len() >= self.most {
            return Err(wrong("tojson writes too much"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool | ValueKind::Number => out.push_str(&scalar(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                let item =
                    |this: &Self, item: &Value, out: &mut String| this.write(item, depth + 1, out);
                self.list(&items, ['[', ']'], depth, out, item)?;
            }
            ValueKind::Map => {
                let pairs = self.pairs(value)?;
                let item = |this: &Self, (key, value): &(String, Value), out: &mut String| {
                    this.text(key, out);
                    out.push_str(&this.separators.1);
                    this.write(value, depth + 1, out)
                };
                self.list(&pairs, ['{', '}'], depth, out, item)?;
            }
            kind => return Err(wrong(format!("tojson cannot write {kind} as JSON"))),
        }
        Ok(())
    }

    /// Items between brackets, one a line where lines are indented.
    fn list<T>(
        &self,
        items: &[T],
        [open, close]: [char; 2],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Self, &T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |level: usize, out: &mut String| {
            if let (Some(indent), false) = (&self.indent, items.is_empty()) {
                out.push('\n');
                (0..level).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            line(depth + 1, out);
            write(self, item, out)?;
        }
        line(depth, out);
        out.push(close);
        Ok(())
    }

    fn pairs(&self, value: &Value) -> Result<Vec<(String, Value)>, Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            let kinds = keys.iter().map(Value::kind);
            if kinds.clone().zip(kinds.skip(1)).any(|(a, b)| a != b) {
                return Err(wrong("tojson cannot sort keys of different types"));
            }
            keys.sort();
        }
        let pair = |key: Value| {
            let text = match key.kind() {
                ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                ValueKind::None => "null".into(),
                ValueKind::Bool | ValueKind::Number => scalar(&key)?,
                kind => return Err(wrong(format!("tojson cannot use {kind} as a key"))),
            };
            Ok((text, value.get_item(&key)?))
        };
        keys.into_iter().map(pair).collect()
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number or truth value as Python's JSON writes it.
fn scalar(value: &Value) -> Result<String, Error> {
    if value.kind() == ValueKind::Bool {
        return Ok(value.is_true().to_string());
    }
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    if !number.is_finite() {
        let name = if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        return Ok(if number.is_nan() { "NaN" } else { name }.into());
    }
    // The same digits and limits as Python's, but for the exponent: 1e16 is 1e+16, 1e-5 is 1e-05.
    let text = format!("{number:?}");
    Ok(match text.split_once('e') {
        None => text,
        Some((digits, power)) => {
            let (sign, power) = match power.strip_prefix('-') {
                Some(power) => ('-', power),
                None => ('+', power),
            };
            format!("{digits}e{sign}{power:0>2}")
        }
    })
}
