//! Rows as JSON: a line each, over several lines, or in a list.

use std::fmt;

use super::Split;
use super::json::Json;
use super::row::{FIELDS, Row, Rows};
use super::source::{self, Fault, Shape};
use crate::error::{Context, Error, Result};

/// Position of a row, for error messages.
#[derive(Debug)]
pub(super) struct Location<'a> {
    what: &'a str,
    line: usize,
    /// Its number, where lines do not tell rows apart.
    row: Option<usize>,
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.what, self.line)?;
        match self.row {
            Some(row) => write!(f, " (row {row})"),
            None => Ok(()),
        }
    }
}

impl Location<'_> {
    /// An error about what `json` has come to.
    pub(super) fn error(&self, json: &Json<'_>, why: &str) -> Error {
        match json.line() {
            line if line == self.line => Error::format(self, why),
            line => Error::format(self, format!("{why} (in line {line})")),
        }
    }
}

/// Counts lines, each once.
#[derive(Debug, Default)]
struct Lines {
    passed: usize,
    counted: usize,
}

impl Lines {
    /// The line of the byte `at`, which is not before those asked for earlier.
    fn at(&mut self, text: &str, at: usize) -> usize {
        let between = text.as_bytes().get(self.counted..at).unwrap_or_default();
        self.passed += between.iter().filter(|byte| **byte == b'\n').count();
        self.counted = at;
        self.passed + 1
    }
}

/// Reads one value; it is given where that is.
pub(super) type Each<'a> = &'a mut dyn FnMut(&mut Json<'_>, &Location<'_>) -> Result<()>;

/// Bytes that hold rows, and their name in errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) what: &'a str,
    /// `true` if values other than rows are tolerated.
    pub(super) loose: bool,
}

impl Input<'_> {
    /// Reads every value with `each`; none where the first has none of `fields` and that is no
    /// error.
    pub(super) fn read(&self, fields: &[&str], each: Each<'_>) -> Result<()> {
        let text = source::text(self.bytes).map_err(|fault| self.error(fault))?;
        match source::shape(&text, fields) {
            Shape::Nothing if self.loose => Ok(()),
            Shape::List(at) => self.list(&text, at, each),
            Shape::Lines | Shape::Nothing => self.lines(&text, each),
        }
    }

    fn error(&self, fault: Fault) -> Error {
        match fault.line {
            Some(line) => Error::format(format!("{}:{line}", self.what), fault.why),
            None => Error::format(self.what, fault.why),
        }
    }

    fn lines(&self, text: &str, each: Each<'_>) -> Result<()> {
        let (mut json, mut lines) = (Json::new(text), Lines::default());
        while json.peek().is_some() {
            let place = Location {
                what: self.what,
                line: lines.at(text, json.offset()),
                row: None,
            };
            each(&mut json, &place)?;
        }
        Ok(())
    }

    fn list(&self, text: &str, at: usize, each: Each<'_>) -> Result<()> {
        let (mut json, mut lines) = (Json::from(text, at), Lines::default());
        let mut failed = None;
        let read = json.list(|json, number| {
            json.peek();
            let place = Location {
                what: self.what,
                line: lines.at(text, json.offset()),
                row: Some(number),
            };
            each(json, &place).map_err(|error| {
                failed = Some(error);
                String::new()
            })
        });
        let line = json.line();
        let fault = |why: String| {
            self.error(Fault {
                line: Some(line),
                why,
            })
        };
        match (failed, read) {
            (Some(error), _) => return Err(error),
            (None, read) => read.map_err(fault)?,
        }
        // What is around a list was read to find it.
        let alone = Json::new(text).peek() == Some(b'[');
        match alone && json.peek().is_some() {
            true => Err(fault("there is more after the list of rows".into())),
            false => Ok(()),
        }
    }
}

/// Adds the rows of `input`; those that do not say belong to `split`.
pub(super) fn read(input: Input<'_>, split: Option<Split>, rows: &mut Rows) -> Result<()> {
    let fields = FIELDS.map(|(name, _)| name);
    input.read(&fields, &mut |json, place| {
        let row = row(json, place, rows).map_err(|why| place.error(json, &why))?;
        let example = row.example(split).context(|| place.to_string())?;
        rows.examples.push(example);
        Ok(())
    })
}

/// A field's value in words, for errors.
fn expected(name: &str, what: &str, json: &mut Json<'_>) -> String {
    if json.peek().is_none() {
        return format!("it ends before the value of `{name}`");
    }
    format!("`{name}` is {}; expected {what}", json.shown())
}

/// Reads the row that is next.
fn row(json: &mut Json<'_>, place: &Location<'_>, rows: &mut Rows) -> super::Why<Row> {
    let mut row = Row::default();
    let mut seen = [false; FIELDS.len()];
    if json.peek() != Some(b'{') {
        return Err(format!(
            "expected a row, an object {{...}}, found {}",
            json.shown()
        ));
    }
    json.object(|json, name| {
        let Some(field) = FIELDS.iter().position(|(field, _)| *field == name) else {
            return json.skip();
        };
        if std::mem::replace(&mut seen[field], true) {
            return Err(format!("`{name}` is there twice"));
        }
        let optional = !FIELDS[field].1;
        if optional && json.null() {
            return Ok(());
        }
        let to = match name {
            "target" => return target(json, &mut row.target, &mut |name| broke(rows, place, name)),
            "source" => &mut row.source,
            "task_name" => &mut row.task_name,
            "split" => &mut row.split,
            "task_source" => &mut row.task_source,
            _ => &mut row.template_type,
        };
        if json.peek() != Some(b'"') {
            return Err(expected(name, "a text", json));
        }
        let text = json.string()?;
        match (text.broken, name) {
            (true, "source") => broke(rows, place, name),
            (true, _) => return Err(format!("`{name}` has an unpaired surrogate")),
            _ => {}
        }
        *to = text.text;
        Ok(())
    })?;
    for ((name, needed), seen) in FIELDS.into_iter().zip(seen) {
        if needed && !seen {
            return Err(format!("the field `{name}` is missing"));
        }
    }
    Ok(row)
}

fn broke(rows: &mut Rows, place: &Location<'_>, field: &str) {
    rows.broke(&place.to_string(), field);
}

/// Reads an answer, or a list of all that are right.
fn target(
    json: &mut Json<'_>,
    texts: &mut Vec<String>,
    broke: &mut dyn FnMut(&str),
) -> super::Why<()> {
    let what = "a text or a list of texts";
    let mut one = |json: &mut Json<'_>| {
        let text = json.string()?;
        if text.broken {
            broke("target");
        }
        texts.push(text.text);
        Ok(())
    };
    match json.peek() {
        Some(b'"') => one(json),
        Some(b'[') => json.list(|json, number| match json.peek() {
            Some(b'"') => one(json),
            _ => Err(format!(
                "item {number} of {}",
                expected("target", "a text", json)
            )),
        }),
        _ => Err(expected("target", what, json)),
    }
}
