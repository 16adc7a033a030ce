//! Values of a saved file, once read.

use std::borrow::Cow;

use super::tensor::Stored;

/// A value a pickle can hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string, or a path as text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A dictionary in its own order, or the attributes of an old configuration object.
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A torch tensor or a numpy array.
    Tensor(Box<Stored<'a>>),
}

impl<'a> Value<'a> {
    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The pairs of a dictionary.
    pub fn pairs(&self) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self {
            Value::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value of a dictionary at `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let found = self.pairs()?.iter().find(|(k, _)| k.text() == Some(key));
        found.map(|(_, value)| value)
    }
}
