//! A pickle reader that knows exactly the opcodes and globals of saved tensors and of metadata
//! made of plain values. A global is a word looked up in a list here; nothing is imported, called
//! or executed, and whatever is not on the list is refused by its name.
//!
//! Objects live in one list and refer to each other by position, so that sharing costs nothing
//! while reading and a cycle is only a number. `tree.rs` then copies them out as a tree, within a
//! budget that grows with the file: shared references cannot multiply.

mod global;
mod object;
mod tree;

use std::collections::BTreeMap;

use self::global::Global;
use super::tensor::{Data, Dtype};
use super::value::Value;
use crate::error::Result;

/// Most objects in one pickle; a state dict of a thousand tensors has some fifteen thousand.
const OBJECTS: usize = 1 << 20;

type Id = usize;

#[derive(Debug, Clone)]
enum Node<'a> {
    Plain(Value<'a>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// Bytes as protocol 2 writes them: each a character up to U+00FF.
    Latin1(&'a str),
    Dtype(Dtype),
    Storage(Dtype, Data<'a>),
    /// A numpy array before its state.
    Blank,
    /// Settings before their attributes.
    Settings,
}

/// A lookup of a storage's bytes: by key, number of values and size of each.
pub(super) type Storages<'f, 'a> = dyn Fn(&str, usize, usize) -> Option<Data<'a>> + 'f;

struct Machine<'a, 's> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    storages: &'s Storages<'s, 'a>,
    /// Work left beyond one step per opcode: whatever could be repeated by reference.
    budget: usize,
    /// Numbers left to all tensors of the value.
    numbers: usize,
}

/// Reads one pickle at the start of `bytes`: the value, whose tensors hold at most `numbers`
/// numbers together, and how long the pickle is.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    numbers: usize,
    storages: &Storages<'_, 'a>,
) -> Result<(Value<'a>, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        storages,
        budget: bytes.len().saturating_mul(4).saturating_add(1024),
        numbers,
    };
    let root = machine.run()?;
    let mut busy = vec![false; machine.nodes.len()];
    let value = machine.tree(root, 0, &mut busy)?;
    Ok((value, machine.at))
}

impl<'a> Machine<'a, '_> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(n);
        taken.ok_or_else(|| "the pickle is cut off".into())
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| "the pickle is cut off".into())
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(256).position(|b| *b == b'\n');
        let line = self.take(end.ok_or("a global without an end")?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "a global that is not text".into())
    }

    fn spend(&mut self, n: usize) -> Result<()> {
        self.budget = self
            .budget
            .checked_sub(n)
            .ok_or("it repeats itself by reference to more than its own size: refused")?;
        Ok(())
    }

    fn push(&mut self, node: Node<'a>) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn plain(&mut self, value: Value<'a>) {
        self.push(Node::Plain(value));
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle's stack runs empty".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "the pickle's stack runs empty".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or("the pickle has no mark to go back to")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err("the pickle's stack runs empty".into()),
        }
    }

    fn run(&mut self) -> Result<Id> {
        if self.take(1)? != [0x80] || self.take(1)? != [2] {
            return Err("it is not a pickle of protocol 2, which torch and MTTL write".into());
        }
        loop {
            let [code] = self.chunk()?;
            if self.nodes.len() > OBJECTS {
                return Err(format!("it holds more than {OBJECTS} objects").into());
            }
            if code == b'.' {
                return self.pop();
            }
            if !self.scalar(code)? && !self.container(code)? && !self.object(code)? {
                return Err(
                    format!("opcode 0x{code:02x} is not one that saved tensors use").into(),
                );
            }
        }
    }

    /// Opcodes that push one plain value.
    fn scalar(&mut self, code: u8) -> Result<bool> {
        let value = match code {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(i64::from(self.chunk::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.chunk()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.chunk()?))),
            0x8a => {
                let [n] = self.chunk()?;
                let raw = self.take(n.into())?;
                if raw.len() > 8 {
                    return Err("an integer of more than 64 bits".into());
                }
                let fill = if raw.last().is_some_and(|b| *b > 127) {
                    0xff
                } else {
                    0
                };
                let mut wide = [fill; 8];
                wide[..raw.len()].copy_from_slice(raw);
                Value::Int(i64::from_le_bytes(wide))
            }
            b'G' => Value::Float(f64::from_be_bytes(self.chunk()?)),
            b'X' => {
                let n = u32::from_le_bytes(self.chunk()?);
                let text = std::str::from_utf8(self.take(n as usize)?);
                Value::Text(text.map_err(|_| "a string that is not UTF-8")?.into())
            }
            _ => return Ok(false),
        };
        self.plain(value);
        Ok(true)
    }

    /// Opcodes that build lists, tuples and dictionaries, and the memo.
    fn container(&mut self, code: u8) -> Result<bool> {
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0..code - 0x84 {
                    items.insert(0, self.pop()?);
                }
                self.push(Node::Tuple(items));
            }
            b'a' | b'e' => {
                let items = match code {
                    b'a' => vec![self.pop()?],
                    _ => self.pop_mark()?,
                };
                let list = self.top()?;
                match &mut self.nodes[list] {
                    Node::List(into) => into.extend(items),
                    _ => return Err("it appends to what is no list".into()),
                }
            }
            b's' | b'u' => {
                let items = match code {
                    b's' => {
                        let value = self.pop()?;
                        vec![self.pop()?, value]
                    }
                    _ => self.pop_mark()?,
                };
                let dict = self.top()?;
                let (pairs, odd) = items.as_chunks::<2>();
                match &mut self.nodes[dict] {
                    Node::Dict(into) if odd.is_empty() => {
                        into.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                    }
                    _ => return Err("it sets items of what is no dictionary".into()),
                }
            }
            b'q' | b'r' => {
                let slot = self.slot(code == b'q')?;
                let id = self.top()?;
                self.memo.insert(slot, id);
            }
            b'h' | b'j' => {
                let slot = self.slot(code == b'h')?;
                let id = self.memo.get(&slot);
                self.stack
                    .push(*id.ok_or("it refers to something it never held")?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn slot(&mut self, short: bool) -> Result<u32> {
        Ok(match short {
            true => self.chunk::<1>()?[0].into(),
            false => u32::from_le_bytes(self.chunk()?),
        })
    }
}
