//! The fields of a `config.json`, each taken once; one that nobody took is refused by name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::defaults::{Null, Row};
use super::idle;
use crate::error::{Error, Result};

/// Largest width, vocabulary or number of positions believed.
const LARGEST: usize = 1 << 28;

/// The fields not yet taken.
#[derive(Debug)]
pub(super) struct Fields {
    what: String,
    map: Map<String, Value>,
    /// The family's defaults for absent fields.
    rows: &'static [Row],
    /// Contradictions and how they were resolved, and unused fields.
    notes: Vec<String>,
}

impl Fields {
    /// The fields of `value`, which errors call `what`.
    pub(super) fn new(what: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Fields {
                what: what.to_owned(),
                map,
                rows: &[],
                notes: Vec::new(),
            }),
            _ => Err(Error::format(what, "is not a JSON object")),
        }
    }

    /// From here on, fields that are absent have these values.
    pub(super) fn with(mut self, rows: &'static [Row]) -> Self {
        self.rows = rows;
        self
    }

    pub(super) fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::format(&self.what, why)
    }

    /// Remembers something the file's author may not expect.
    pub(super) fn note(&mut self, what: impl std::fmt::Display) {
        self.notes.push(format!("{}: {what}", self.what));
    }

    /// Returns `true` if the field is present and not null.
    pub(super) fn says(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Returns `true` if the field is present and null.
    pub(super) fn null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    /// Returns `true` if any field of the family's table is present.
    pub(super) fn says_anything(&self) -> bool {
        self.rows.iter().any(|row| self.says(row.field))
    }

    /// The value as the file has it or as the family's table says; nothing where that is none.
    fn value(&mut self, name: &str) -> Result<Option<Value>> {
        let row = self.rows.iter().find(|row| row.field == name);
        let value = match (self.map.remove(name), row) {
            (None | Some(Value::Null), None) => return Ok(None),
            (None, Some(row)) => row.absent.value(),
            (Some(Value::Null), Some(row)) => match row.null {
                Null::None => return Ok(None),
                Null::Absent => row.absent.value(),
                Null::Refused => {
                    return Err(self.bad(format!(
                        "field `{name}` is null, which means nothing here; leave it out for {}, or \
                         write a value",
                        row.absent.value()
                    )));
                }
            },
            (Some(value), _) => value,
        };
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    fn read<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        let shown = shown(&value);
        let read = serde_json::from_value(value).map(Some);
        read.map_err(|_| self.bad(format!("field `{name}` is {shown}; expected {expected}")))
    }

    fn need<T>(&self, name: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| self.bad(format!("field `{name}` is missing")))
    }

    fn sized(&self, name: &str, size: usize) -> Result<usize> {
        match size {
            1..=LARGEST => Ok(size),
            _ => Err(self.bad(format!("field `{name}` is {size}: use 1 to {LARGEST}"))),
        }
    }

    /// A size.
    pub(super) fn size(&mut self, name: &str) -> Result<usize> {
        let size = self.size_maybe(name)?;
        self.need(name, size)
    }

    /// A size, or none.
    pub(super) fn size_maybe(&mut self, name: &str) -> Result<Option<usize>> {
        let size = self.count_maybe(name)?;
        size.map(|size| self.sized(name, size)).transpose()
    }

    /// A whole number that may be 0, or none.
    pub(super) fn count_maybe(&mut self, name: &str) -> Result<Option<usize>> {
        self.read(name, "a whole number")
    }

    /// A positive number.
    pub(super) fn number(&mut self, name: &str) -> Result<f64> {
        let number = self.number_maybe(name)?;
        self.need(name, number)
    }

    /// A positive number, or none.
    pub(super) fn number_maybe(&mut self, name: &str) -> Result<Option<f64>> {
        let number: Option<f64> = self.read(name, "a number")?;
        match number {
            Some(n) if !(n.is_finite() && n > 0.0) => {
                Err(self.bad(format!("field `{name}` is {n}: it must be above 0")))
            }
            fine => Ok(fine),
        }
    }

    /// A positive number, or none; 0 is none too.
    pub(super) fn number_but_zero(&mut self, name: &str) -> Result<Option<f64>> {
        match self.map.get(name).and_then(Value::as_f64) {
            Some(0.0) => {
                self.map.remove(name);
                Ok(None)
            }
            _ => self.number_maybe(name),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool> {
        Ok(self.flag_maybe(name)?.unwrap_or(false))
    }

    /// True, false, or neither.
    pub(super) fn flag_maybe(&mut self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false")
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str) -> Result<String> {
        let text = self.text_maybe(name)?;
        self.need(name, text)
    }

    /// A text, or none.
    pub(super) fn text_maybe(&mut self, name: &str) -> Result<Option<String>> {
        self.read(name, "a text")
    }

    /// A list, or none; `of` names its entries in errors.
    pub(super) fn list<T: DeserializeOwned>(
        &mut self,
        name: &str,
        of: &str,
    ) -> Result<Option<Vec<T>>> {
        self.read(name, &format!("a list of {of}"))
    }

    /// An object as fields of its own, unless it is absent, null or empty.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Fields>> {
        let value = self
            .value(name)?
            .filter(|value| *value != Value::Object(Map::new()));
        let what = format!("{}: field `{name}`", self.what);
        value.map(|value| Fields::new(&what, value)).transpose()
    }

    /// Takes fields of which the family makes no use.
    pub(super) fn skip(&mut self, names: &[&str]) {
        names.iter().for_each(|name| {
            self.map.remove(*name);
        });
    }

    /// Takes a field that says again what `of` says.
    ///
    /// # Errors
    /// When it says something else: both are named.
    pub(super) fn again(&mut self, name: &str, of: &str, value: usize) -> Result<()> {
        match self.count_maybe(name)? {
            Some(other) if other != value => Err(self.bad(format!(
                "field `{name}` is {other} and `{of}` is {value}: they mean the same, so make them \
                 agree"
            ))),
            _ => Ok(()),
        }
    }

    /// Takes a field that should say `value`, with a note where it says something else.
    pub(super) fn again_or_unused(&mut self, name: &str, value: usize, why: &str) -> Result<()> {
        let said = self.count_maybe(name)?;
        if let Some(other) = said.filter(|other| *other != value) {
            self.note(format!("`{name}` ({other}) is not used: {why}"));
        }
        Ok(())
    }

    /// Gives a field that goes by several names the one that the family reads.
    ///
    /// # Errors
    /// When two of them disagree.
    pub(super) fn alias(&mut self, name: &str, other: &str) -> Result<()> {
        let Some(value) = self.map.remove(other).filter(|value| !value.is_null()) else {
            return Ok(());
        };
        match self.map.get(name).filter(|value| !value.is_null()) {
            None => {
                self.map.insert(name.into(), value);
                Ok(())
            }
            Some(own) if alike(own, &value) => Ok(()),
            Some(own) => {
                let (own, value) = (shown(own), shown(&value));
                Err(self.bad(format!(
                    "fields `{name}` ({own}) and `{other}` ({value}) mean the same and contradict \
                     each other: make them agree"
                )))
            }
        }
    }

    /// Takes a field that this family does not use, with a note unless it is absent or null.
    pub(super) fn unused(&mut self, name: &str, why: &str) {
        if let Some(value) = self.map.remove(name).filter(|value| !value.is_null()) {
            self.note(format!("`{name}` ({}) is not used: {why}", shown(&value)));
        }
    }

    /// The field that describes how the weights are quantised, with its method; the tensors' own
    /// types decide.
    pub(super) fn quantised(&mut self) -> Option<String> {
        let fields = idle::QUANTISED.iter();
        let said = fields.filter_map(|name| Some((*name, self.map.remove(*name)?)));
        let said: Vec<(&str, Value)> = said.filter(|(_, value)| !value.is_null()).collect();
        let (name, value) = said.first()?;
        let method = ["quant_method", "quant_algo"]
            .into_iter()
            .find_map(|m| value.get(m));
        Some(match method.and_then(Value::as_str) {
            Some(method) => format!("`{name}` ({method})"),
            None => format!("`{name}`"),
        })
    }

    /// Refuses whatever was not taken and might change the computation; the notes otherwise.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        for (name, off) in idle::OFF {
            let Some(value) = self.map.remove(*name).filter(|value| !value.is_null()) else {
                continue;
            };
            let same = |off: &&str| {
                serde_json::from_str::<Value>(off).is_ok_and(|off| alike(&off, &value))
            };
            if !off.iter().any(same) {
                let value = shown(&value);
                let why = match off {
                    [] => "it would change what is computed, which is not supported".into(),
                    off => format!("only {} is supported", off.join(" or ")),
                };
                return Err(self.bad(format!("field `{name}` is {value}: {why}")));
            }
        }
        self.map
            .retain(|name, value| !value.is_null() && !idle::idle(name));
        match self.map.iter().next() {
            None => Ok(self.notes),
            Some((name, value)) => Err(self.bad(format!(
                "field `{name}` ({}) is not known for this model_type and may change what it \
                 computes; if it does not, remove it from the file",
                shown(value)
            ))),
        }
    }

    /// Finishes the fields of an object of this one, keeping their notes.
    pub(super) fn absorb(&mut self, inner: Fields) -> Result<()> {
        self.notes.extend(inner.finish()?);
        Ok(())
    }
}

/// Returns `true` if two values are equal, where 1 equals 1.0.
fn alike(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// The start of a value.
fn shown(value: &Value) -> String {
    let mut shown = value.to_string();
    if let Some((cut, _)) = shown.char_indices().nth(40) {
        shown.truncate(cut);
        shown += "...";
    }
    shown
}
