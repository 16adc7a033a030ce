//! From objects that refer to each other to a value that stands alone.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Id, Machine, Node};
use crate::error::Result;
use crate::torch::value::Value;

/// Deepest nesting that is read.
const DEPTH: usize = 64;

impl<'a> Machine<'a, '_> {
    /// Copies the object at `id` out as a tree.
    pub(super) fn tree(&mut self, id: Id, depth: usize, busy: &mut [bool]) -> Result<Value<'a>> {
        self.spend(1)?;
        if std::mem::replace(&mut busy[id], true) {
            return Err("it contains itself".into());
        }
        if depth > DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} levels").into());
        }
        let value = match self.nodes[id].clone() {
            Node::Plain(value) => {
                match &value {
                    Value::Text(Cow::Owned(text)) => self.spend(text.len())?,
                    Value::Tensor(tensor) => {
                        self.numbers = self.numbers.checked_sub(tensor.numel()).ok_or(
                            "its tensors share storages so that they hold more numbers than the \
                             file has bytes: refused",
                        )?;
                    }
                    _ => {}
                }
                value
            }
            Node::List(items) => Value::List(self.trees(&items, depth, busy)?),
            Node::Tuple(items) => Value::Tuple(self.trees(&items, depth, busy)?),
            Node::Dict(pairs) => {
                let mut dict = Vec::new();
                for (key, value) in pairs {
                    let key = self.tree(key, depth + 1, busy)?;
                    dict.push((key, self.tree(value, depth + 1, busy)?));
                }
                unlike(&dict)?;
                Value::Dict(dict)
            }
            Node::Settings => Value::Dict(Vec::new()),
            Node::Global(global) => {
                return Err(format!("a class ({global:?}) where a value belongs").into());
            }
            Node::Latin1(_) => return Err("bytes where a value belongs".into()),
            Node::Dtype(_) => return Err("a dtype where a value belongs".into()),
            Node::Storage(..) => return Err("a storage where a value belongs".into()),
            Node::Blank => return Err("an array without its content".into()),
        };
        busy[id] = false;
        Ok(value)
    }

    fn trees(&mut self, ids: &[Id], depth: usize, busy: &mut [bool]) -> Result<Vec<Value<'a>>> {
        ids.iter()
            .map(|id| self.tree(*id, depth + 1, busy))
            .collect()
    }
}

/// Refuses keys that are there twice, or are not text, a number, `None` or a truth value.
fn unlike(dict: &[(Value<'_>, Value<'_>)]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (key, _) in dict {
        let short = match key {
            Value::Text(text) => (0, 0, &**text),
            Value::Int(i) => (1, *i, ""),
            Value::Bool(b) => (1, i64::from(*b), ""),
            Value::None => (2, 0, ""),
            _ => return Err("a dictionary with a key that is neither text nor a number".into()),
        };
        if !seen.insert(short) {
            return Err(format!("a dictionary that holds the key {key:?} twice").into());
        }
    }
    Ok(())
}
