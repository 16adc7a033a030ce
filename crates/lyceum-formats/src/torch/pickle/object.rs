//! Opcodes that name a global or apply one: tensors, arrays, ordered dictionaries, settings.

use std::borrow::Cow;

use super::global::{Global, global};
use super::{Id, Machine, Node};
use crate::error::{Error, Result};
use crate::torch::tensor::{Data, Stored, numpy_dtype};
use crate::torch::value::Value;

/// Most axes a tensor may have.
const AXES: usize = 8;

impl<'a> Machine<'a, '_> {
    /// Opcodes that name a global or apply one.
    pub(super) fn object(&mut self, code: u8) -> Result<bool> {
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
    fn items(&mut self, id: Id) -> Result<Vec<Id>> {
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

    fn text(&mut self, id: Id) -> Result<Cow<'a, str>> {
        let Node::Plain(Value::Text(text)) = &self.nodes[id] else {
            return Err("something else where text belongs".into());
        };
        let text = text.clone();
        self.spend(text.len())?;
        Ok(text)
    }

    fn count(&self, id: Id) -> Result<usize> {
        match self.nodes[id] {
            Node::Plain(Value::Int(i)) => {
                usize::try_from(i).map_err(|_| format!("a size or stride of {i}").into())
            }
            _ => Err("something else where a size belongs".into()),
        }
    }

    fn axes(&mut self, id: Id) -> Result<Vec<usize>> {
        let Node::Tuple(items) = &self.nodes[id] else {
            return Err("a shape that is no tuple".into());
        };
        if items.len() > AXES {
            return Err(format!("a tensor of {} axes", items.len()).into());
        }
        items.iter().map(|item| self.count(*item)).collect()
    }

    /// `('storage', type, key, location, numel)`; the location is ignored.
    fn storage(&mut self, id: Id) -> Result<Node<'a>> {
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
            return Err(format!("the file holds no storage `{key}`").into());
        };
        if numel.checked_mul(dtype.size()) != Some(data.len()) {
            let held = data.len();
            return Err(format!("storage `{key}` claims {numel} numbers in {held} bytes").into());
        }
        Ok(Node::Storage(dtype, data))
    }

    fn call(&mut self, global: Global, arguments: &[Id]) -> Result<Node<'a>> {
        match (global, arguments) {
            (Global::RebuildTensor, [storage, offset, size, stride, ..]) => {
                self.tensor(*storage, *offset, *size, *stride)
            }
            (Global::RebuildParameter, [tensor, ..]) => match &self.nodes[*tensor] {
                Node::Plain(Value::Tensor(tensor)) => {
                    Ok(Node::Plain(Value::Tensor(tensor.clone())))
                }
                _ => Err("a parameter without a tensor".into()),
            },
            (Global::OrderedDict, []) => Ok(Node::Dict(Vec::new())),
            (Global::OrderedDict, [pairs]) => self.dict(*pairs),
            (Global::Reconstruct, _) => Ok(Node::Blank),
            (Global::NumpyDtype, [name, ..]) => {
                let name = self.text(*name)?;
                Ok(Node::Dtype(numpy_dtype(&name)?))
            }
            (Global::Encode, [text, codec]) => self.encoded(*text, *codec),
            (Global::NumpyScalar, [dtype, raw]) => {
                let array = self.array(*dtype, *raw, Vec::new(), false)?;
                Ok(Node::Plain(Value::Float(
                    array.values()?.first().copied().unwrap_or(0.0),
                )))
            }
            (Global::Path, parts) => self.path(parts),
            _ => Err("a global called with arguments it does not take".into()),
        }
    }

    fn tensor(&mut self, storage: Id, offset: Id, size: Id, stride: Id) -> Result<Node<'a>> {
        let Node::Storage(dtype, data) = self.nodes[storage].clone() else {
            return Err("a tensor without a storage".into());
        };
        let (offset, shape) = (self.count(offset)?, self.axes(size)?);
        let strides = self.axes(stride)?;
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

    /// A dictionary given as a list of pairs.
    fn dict(&mut self, pairs: Id) -> Result<Node<'a>> {
        let pairs = self.items(pairs)?;
        let pair = |id: Id| match self.items(id)?[..] {
            [key, value] => Ok((key, value)),
            _ => Err(Error::from("an item that is no pair")),
        };
        Ok(Node::Dict(
            pairs.into_iter().map(pair).collect::<Result<_>>()?,
        ))
    }

    /// Bytes given as text, a character each.
    fn encoded(&mut self, text: Id, codec: Id) -> Result<Node<'a>> {
        if !matches!(&*self.text(codec)?, "latin1" | "latin-1") {
            return Err("bytes in another form than latin1".into());
        }
        match &self.nodes[text] {
            Node::Plain(Value::Text(Cow::Borrowed(text))) => Ok(Node::Latin1(text)),
            _ => Err("bytes that are not text".into()),
        }
    }

    fn path(&mut self, parts: &[Id]) -> Result<Node<'a>> {
        let mut path = String::new();
        for part in parts {
            if !path.is_empty() && !path.ends_with('/') {
                path.push('/');
            }
            path += &self.text(*part)?;
        }
        Ok(Node::Plain(Value::Text(path.into())))
    }

    fn array(
        &mut self,
        dtype: Id,
        raw: Id,
        shape: Vec<usize>,
        fortran: bool,
    ) -> Result<Stored<'a>> {
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
    fn build(&mut self, object: Id, state: Id) -> Result<()> {
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
}
