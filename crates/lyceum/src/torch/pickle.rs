//! A pickle reader that knows exactly the opcodes and globals of saved tensors and of metadata
//! made of plain values. A global is a word looked up in a list here; nothing is imported, called
//! or executed, and whatever is not on the list is refused by its name.
//!
//! Objects live in one list and refer to each other by position, so that sharing costs nothing
//! while reading and a cycle is only a number. [`tree`] then copies them out as a tree, within a
//! budget that grows with the file: shared references cannot multiply.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Why;
use super::tensor::{Data, Dtype, Stored, numpy_dtype};

/// Deepest nesting that is read.
const DEPTH: usize = 64;
/// Most axes a tensor may have.
const AXES: usize = 8;
/// Most objects in one pickle; a state dict of a thousand tensors has some fifteen thousand.
const OBJECTS: usize = 1 << 20;

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

    /// What a dictionary holds at `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let found = self.pairs()?.iter().find(|(k, _)| k.text() == Some(key));
        found.map(|(_, value)| value)
    }
}

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

#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    StorageType(Dtype),
    Reconstruct,
    Ndarray,
    NumpyDtype,
    NumpyScalar,
    Encode,
    Path,
    /// A configuration class of MTTL, whose attributes are all that is kept.
    Settings,
}

fn global(module: &str, name: &str) -> Why<Global> {
    Ok(match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch", name) if name.ends_with("Storage") => {
            let dtype = Dtype::of_storage(name);
            Global::StorageType(dtype.ok_or_else(|| format!("`torch.{name}` is not supported"))?)
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Global::Reconstruct,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy", "ndarray") => Global::Ndarray,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("_codecs", "encode") => Global::Encode,
        ("pathlib" | "pathlib._local", "PosixPath") => Global::Path,
        (module, name) if module.starts_with("mttl.") && name.ends_with("Config") => {
            Global::Settings
        }
        _ => {
            return Err(format!(
                "it refers to `{module}.{name}`, which is not a tensor or plain data; refused, \
                 nothing was executed"
            ));
        }
    })
}

/// Where the bytes of storages come from: by key, for so many numbers of such a size.
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
) -> Why<(Value<'a>, usize)> {
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
    fn take(&mut self, n: usize) -> Why<&'a [u8]> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(n);
        taken.ok_or_else(|| "the pickle is cut off".into())
    }

    fn chunk<const N: usize>(&mut self) -> Why<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| "the pickle is cut off".into())
    }

    fn line(&mut self) -> Why<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(256).position(|b| *b == b'\n');
        let line = self.take(end.ok_or("a global without an end")?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "a global that is not text".into())
    }

    fn spend(&mut self, n: usize) -> Why<()> {
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

    fn pop(&mut self) -> Why<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle's stack runs empty".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "the pickle's stack runs empty".into())
    }

    fn pop_mark(&mut self) -> Why<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or("the pickle has no mark to go back to")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Why<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err("the pickle's stack runs empty".into()),
        }
    }

    fn run(&mut self) -> Why<Id> {
        if self.take(1)? != [0x80] || self.take(1)? != [2] {
            return Err("it is not a pickle of protocol 2, which torch and MTTL write".into());
        }
        loop {
            let [code] = self.chunk()?;
            if self.nodes.len() > OBJECTS {
                return Err(format!("it holds more than {OBJECTS} objects"));
            }
            if code == b'.' {
                return self.pop();
            }
            if !self.scalar(code)? && !self.container(code)? && !self.object(code)? {
                return Err(format!(
                    "opcode 0x{code:02x} is not one that saved tensors use"
                ));
            }
        }
    }

    /// Opcodes that push one plain value.
    fn scalar(&mut self, code: u8) -> Why<bool> {
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
    fn container(&mut self, code: u8) -> Why<bool> {
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

    fn slot(&mut self, short: bool) -> Why<u32> {
        Ok(match short {
            true => self.chunk::<1>()?[0].into(),
            false => u32::from_le_bytes(self.chunk()?),
        })
    }

    /// Opcodes that name a global or apply one.
    fn object(&mut self, code: u8) -> Why<bool> {
        match code {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global(global(module, name)?));
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(storage);
            }
            b'R' | 0x81 => {
                let (arguments, what) = (self.pop()?, self.pop()?);
                let arguments = self.items(arguments)?;
                let Node::Global(global) = self.nodes[what] else {
                    return Err("it calls what is no function".into());
                };
                let node = match (global, code) {
                    (Global::Settings, 0x81) if arguments.is_empty() => Node::Settings,
                    (_, 0x81) => return Err("it makes an object that is not settings".into()),
                    (global, _) => self.call(global, &arguments)?,
                };
                self.push(node);
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                self.build(object, state)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The items of a list or tuple, paid for.
    fn items(&mut self, id: Id) -> Why<Vec<Id>> {
        let n = match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => items.len(),
            _ => return Err("arguments that are no tuple".into()),
        };
        self.spend(n)?;
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => Ok(items.clone()),
            _ => Ok(Vec::new()),
        }
    }

    fn text(&mut self, id: Id) -> Why<Cow<'a, str>> {
        let Node::Plain(Value::Text(text)) = &self.nodes[id] else {
            return Err("something else where text belongs".into());
        };
        let text = text.clone();
        self.spend(text.len())?;
        Ok(text)
    }

    fn count(&self, id: Id) -> Why<usize> {
        match self.nodes[id] {
            Node::Plain(Value::Int(i)) => {
                usize::try_from(i).map_err(|_| format!("a size or stride of {i}"))
            }
            _ => Err("something else where a size belongs".into()),
        }
    }

    fn axes(&mut self, id: Id) -> Why<Vec<usize>> {
        let Node::Tuple(items) = &self.nodes[id] else {
            return Err("a shape that is no tuple".into());
        };
        if items.len() > AXES {
            return Err(format!("a tensor of {} axes", items.len()));
        }
        items.iter().map(|item| self.count(*item)).collect()
    }

    /// `('storage', type, key, location, numel)`; the location is ignored.
    fn storage(&mut self, id: Id) -> Why<Node<'a>> {
        let parts = self.items(id)?;
        let [tag, kind, key, _, numel, rest @ ..] = &parts[..] else {
            return Err("a storage without its five parts".into());
        };
        let whole = rest
            .iter()
            .all(|r| matches!(self.nodes[*r], Node::Plain(Value::None)));
        if self.text(*tag)? != "storage" || !whole {
            return Err("a reference to something other than a whole storage".into());
        }
        let Node::Global(Global::StorageType(dtype)) = self.nodes[*kind] else {
            return Err("a storage without a type".into());
        };
        let (key, numel) = (self.text(*key)?, self.count(*numel)?);
        let Some(data) = (self.storages)(&key, numel, dtype.size()) else {
            return Err(format!("the file holds no storage `{key}`"));
        };
        if numel.checked_mul(dtype.size()) != Some(data.len()) {
            let held = data.len();
            return Err(format!(
                "storage `{key}` claims {numel} numbers in {held} bytes"
            ));
        }
        Ok(Node::Storage(dtype, data))
    }

    fn call(&mut self, global: Global, arguments: &[Id]) -> Why<Node<'a>> {
        match (global, arguments) {
            (Global::RebuildTensor, [storage, offset, size, stride, ..]) => {
                let Node::Storage(dtype, data) = self.nodes[*storage].clone() else {
                    return Err("a tensor without a storage".into());
                };
                let (offset, shape) = (self.count(*offset)?, self.axes(*size)?);
                let strides = self.axes(*stride)?;
                let tensor = Stored {
                    data,
                    dtype,
                    shape,
                    strides,
                    offset,
                    numpy: false,
                };
                tensor.check()?;
                Ok(Node::Plain(Value::Tensor(Box::new(tensor))))
            }
            (Global::RebuildParameter, [tensor, ..]) => match &self.nodes[*tensor] {
                Node::Plain(Value::Tensor(tensor)) => {
                    Ok(Node::Plain(Value::Tensor(tensor.clone())))
                }
                _ => Err("a parameter without a tensor".into()),
            },
            (Global::OrderedDict, []) => Ok(Node::Dict(Vec::new())),
            (Global::OrderedDict, [pairs]) => {
                let pairs = self.items(*pairs)?;
                let pair = |id: Id| match self.items(id)?[..] {
                    [key, value] => Ok((key, value)),
                    _ => Err("an item that is no pair".to_owned()),
                };
                Ok(Node::Dict(pairs.into_iter().map(pair).collect::<Why<_>>()?))
            }
            (Global::Reconstruct, _) => Ok(Node::Blank),
            (Global::NumpyDtype, [name, ..]) => {
                let name = self.text(*name)?;
                Ok(Node::Dtype(numpy_dtype(&name)?))
            }
            (Global::Encode, [text, codec]) => {
                if !matches!(&*self.text(*codec)?, "latin1" | "latin-1") {
                    return Err("bytes in another form than latin1".into());
                }
                match &self.nodes[*text] {
                    Node::Plain(Value::Text(Cow::Borrowed(text))) => Ok(Node::Latin1(text)),
                    _ => Err("bytes that are not text".into()),
                }
            }
            (Global::NumpyScalar, [dtype, raw]) => {
                let array = self.array(*dtype, *raw, Vec::new(), false)?;
                Ok(Node::Plain(Value::Float(
                    array.values()?.first().copied().unwrap_or(0.0),
                )))
            }
            (Global::Path, parts) => {
                let mut path = String::new();
                for part in parts {
                    if !path.is_empty() && !path.ends_with('/') {
                        path.push('/');
                    }
                    path += &self.text(*part)?;
                }
                Ok(Node::Plain(Value::Text(path.into())))
            }
            _ => Err("a global called with arguments it does not take".into()),
        }
    }

    fn array(&mut self, dtype: Id, raw: Id, shape: Vec<usize>, fortran: bool) -> Why<Stored<'a>> {
        let Node::Dtype(dtype) = self.nodes[dtype] else {
            return Err("an array without a dtype".into());
        };
        let text = match &self.nodes[raw] {
            Node::Latin1(text) => *text,
            _ => return Err("an array without its bytes".into()),
        };
        self.spend(text.len())?;
        let array = Stored::array(Data::Latin1(text), dtype, shape, fortran);
        array.check()?;
        if array.numel().checked_mul(dtype.size()) != Some(array.data.len()) {
            return Err("an array whose bytes are not as many as its shape says".into());
        }
        Ok(array)
    }

    /// Gives an object its state.
    fn build(&mut self, object: Id, state: Id) -> Why<()> {
        match &self.nodes[object] {
            Node::Blank => {
                let parts = self.items(state)?;
                let [_, shape, dtype, fortran, raw] = &parts[..] else {
                    return Err("an array whose state has not five parts".into());
                };
                let fortran = matches!(self.nodes[*fortran], Node::Plain(Value::Bool(true)));
                let shape = self.axes(*shape)?;
                let array = self.array(*dtype, *raw, shape, fortran)?;
                self.nodes[object] = Node::Plain(Value::Tensor(Box::new(array)));
            }
            Node::Dtype(_) => {
                let parts = self.items(state)?;
                let order = parts
                    .get(1)
                    .copied()
                    .ok_or("a dtype without its byte order")?;
                if !matches!(&*self.text(order)?, "<" | "|" | "=") {
                    return Err("numbers in big-endian order".into());
                }
            }
            Node::Settings => match &self.nodes[state] {
                Node::Dict(given) => {
                    let (n, given) = (given.len(), given.clone());
                    self.spend(n)?;
                    self.nodes[object] = Node::Dict(given);
                }
                _ => return Err("settings whose state is no dictionary".into()),
            },
            // A state dict's `_metadata`, which is of no use here.
            Node::Dict(_) => {}
            _ => return Err("it gives a state to what takes none".into()),
        }
        Ok(())
    }

    /// Copies the object at `id` out as a tree.
    fn tree(&mut self, id: Id, depth: usize, busy: &mut [bool]) -> Why<Value<'a>> {
        self.spend(1)?;
        if std::mem::replace(&mut busy[id], true) {
            return Err("it contains itself".into());
        }
        if depth > DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} levels"));
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
                return Err(format!("a class ({global:?}) where a value belongs"));
            }
            Node::Latin1(_) => return Err("bytes where a value belongs".into()),
            Node::Dtype(_) => return Err("a dtype where a value belongs".into()),
            Node::Storage(..) => return Err("a storage where a value belongs".into()),
            Node::Blank => return Err("an array without its content".into()),
        };
        busy[id] = false;
        Ok(value)
    }

    fn trees(&mut self, ids: &[Id], depth: usize, busy: &mut [bool]) -> Why<Vec<Value<'a>>> {
        ids.iter()
            .map(|id| self.tree(*id, depth + 1, busy))
            .collect()
    }
}

/// Refuses keys that are there twice, or are not text, a number, `None` or a truth value.
fn unlike(dict: &[(Value<'_>, Value<'_>)]) -> Why<()> {
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
            return Err(format!("a dictionary that holds the key {key:?} twice"));
        }
    }
    Ok(())
}
