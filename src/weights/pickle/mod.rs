//! The pickle inside a PyTorch checkpoint, read as data. A pickle is a program for a stack machine; this one
//! knows only the instructions and the names that tensors need, and refuses every other name before anything
//! is built from it. Nothing is ever executed.
//!
//! Values live in one arena and refer to each other by index, so that neither deep nesting nor repeated
//! references can blow up time, memory or the stack.

use std::collections::{BTreeMap, HashMap, HashSet};

use candle_core::DType;

/// Real checkpoints need 0.3 MB; the bound keeps a hostile one cheap, each of whose bytes may take a hundred here.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// No weight has more than five dimensions.
const MAX_DIMS: usize = 8;
/// Names of storages are small numbers. Every view of a storage has a copy of its name.
const MAX_STORAGE_NAME: usize = 64;

/// Why a pickle was not accepted.
#[derive(Debug, PartialEq)]
pub(super) enum PickleError {
    /// It names something that is not a part of a tensor: `module.name`.
    Code(String),
    /// It is cut off or not what a checkpoint looks like.
    Malformed(String),
}

type Result<T> = std::result::Result<T, PickleError>;

fn malformed<T>(problem: impl Into<String>) -> Result<T> {
    Err(PickleError::Malformed(problem.into()))
}

/// A tensor as the pickle describes it: a strided view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorView {
    pub dtype: DType,
    /// Name of the archive entry under `data/` that holds the elements.
    pub storage: String,
    /// Elements in the whole storage.
    pub storage_len: usize,
    /// First element of the view.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

/// What a checkpoint's pickle holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub tensors: Vec<(String, TensorView)>,
    /// The integers of the dictionary `dims`, which Whisper's checkpoints carry beside the tensors.
    pub dims: BTreeMap<String, i64>,
}

/// Reads a pickle whose value is a dictionary of tensors, or a dictionary that has one under `state_dict` or
/// `model_state_dict`.
pub(super) fn read(bytes: &[u8]) -> Result<Contents> {
    if bytes.len() > MAX_BYTES {
        return malformed(format!("its pickle is {} bytes long", bytes.len()));
    }
    let mut machine = Machine { rest: bytes, ..Machine::default() };
    let root = machine.run()?;
    machine.contents(root)
}

type Id = usize;

#[derive(Debug, Clone, Copy)]
enum Class {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

/// The only names a pickle of weights may use.
fn class(module: &str, name: &str) -> Option<Class> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Class::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Class::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Class::RebuildParameter,
        ("torch", "FloatStorage") => Class::Storage(DType::F32),
        ("torch", "DoubleStorage") => Class::Storage(DType::F64),
        ("torch", "HalfStorage") => Class::Storage(DType::F16),
        ("torch", "BFloat16Storage") => Class::Storage(DType::BF16),
        ("torch", "ByteStorage" | "BoolStorage") => Class::Storage(DType::U8),
        ("torch", "ShortStorage") => Class::Storage(DType::I16),
        ("torch", "IntStorage") => Class::Storage(DType::I32),
        ("torch", "LongStorage") => Class::Storage(DType::I64),
        _ => return None,
    })
}

#[derive(Debug)]
enum Node<'a> {
    /// `None`, a float: nothing that weights depend on.
    Other,
    Bool,
    Int(i64),
    Text(&'a str),
    Class(Class),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Storage {
        dtype: DType,
        key: &'a str,
        len: usize,
    },
    Tensor(TensorView),
}

#[derive(Debug, Default)]
struct Machine<'a> {
    rest: &'a [u8],
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a MARK was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs to STOP; the value on top is the result.
    fn run(&mut self) -> Result<Id> {
        loop {
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                0x80 => drop(self.byte()?),  // PROTO
                0x95 => drop(self.take(8)?), // FRAME
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (module, name) = (self.text(module)?, self.text(name)?);
                    self.global(module, name)?;
                }
                b'i' => {
                    // INST: a class and a call in one. Never written for tensors, read to name it.
                    let (module, name) = (self.line()?, self.line()?);
                    return Err(PickleError::Code(printable(module, name)));
                }
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Node::Other),
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Other);
                }
                0x88 | 0x89 => self.push(Node::Bool),
                b'K' => self.push_int(1)?,
                b'M' => self.push_int(2)?,
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(value)));
                }
                0x8a => self.long()?,
                0x8c => self.push_text(1)?,
                b'X' => self.push_text(4)?,
                0x8d => self.push_text(8)?,
                b')' => self.push(Node::Tuple(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let count = usize::from(op - 0x84);
                    let Some(height) = self.stack.len().checked_sub(count) else {
                        return malformed("its pickle takes from an empty stack");
                    };
                    let items = self.stack.split_off(height);
                    self.push(Node::Tuple(items));
                }
                b']' => self.push(Node::List),
                b'a' => drop(self.pop()?),
                b'e' => drop(self.pop_to_mark()?),
                b'}' => self.push(Node::Dict(Vec::new())),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend_dict([(key, value)])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    if items.len() % 2 != 0 {
                        return malformed("its pickle has a key without a value");
                    }
                    self.extend_dict(items.chunks_exact(2).map(|pair| (pair[0], pair[1])))?;
                }
                b'q' => {
                    let slot = u32::from(self.byte()?);
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let slot = u32::from(self.byte()?);
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'b' => {
                    // Attributes of an OrderedDict (`_metadata`): nothing that weights depend on.
                    self.pop()?;
                    let target = self.top()?;
                    if !matches!(self.nodes[target], Node::Dict(_)) {
                        return malformed("its pickle sets the state of something that is not a dictionary");
                    }
                }
                other => {
                    return malformed(format!(
                        "its pickle has instruction {other:#04x}, which weights do not need"
                    ));
                }
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(count) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => malformed("its pickle ends in the middle"),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// An unsigned number of `width` bytes, little end first.
    fn unsigned(&mut self, width: usize) -> Result<u64> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') else {
            return malformed("its pickle ends in the middle");
        };
        let line = self.take(end)?;
        self.take(1)?;
        self.utf8(line)
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.trim_end_matches('\r')),
            Err(_) => malformed("its pickle has a name that is not UTF-8"),
        }
    }

    fn push(&mut self, node: Node<'a>) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn push_int(&mut self, width: usize) -> Result<()> {
        let value = self.unsigned(width)?;
        self.push(Node::Int(value as i64)); // one or two bytes
        Ok(())
    }

    /// LONG1: up to 255 bytes, two's complement, little end first; more than eight fit nothing we read.
    fn long(&mut self) -> Result<()> {
        let width = usize::from(self.byte()?);
        let bytes = self.take(width)?;
        let negative = bytes.last().is_some_and(|&high| high >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..width) {
            Some(low) => low.copy_from_slice(bytes),
            None => return malformed(format!("its pickle has a number of {width} bytes")),
        }
        self.push(Node::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn push_text(&mut self, width: usize) -> Result<()> {
        let len = self.unsigned(width)?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Node::Text(text)),
            Err(_) => return malformed("its pickle has text that is not UTF-8"),
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.pop() {
            Some(id) => Ok(id),
            None => malformed("its pickle takes from an empty stack"),
        }
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) => Ok(id),
            None => malformed("its pickle takes from an empty stack"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => malformed("its pickle lacks a mark"),
        }
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let id = self.top()?;
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(&id) => self.stack.push(id),
            None => return malformed("its pickle refers to a value it never stored"),
        }
        Ok(())
    }

    fn text(&self, id: Id) -> Result<&'a str> {
        match self.nodes[id] {
            Node::Text(text) => Ok(text),
            _ => malformed("its pickle has something else where a name belongs"),
        }
    }

    /// A size, a stride, an offset.
    fn index(&self, id: Id) -> Result<usize> {
        match self.nodes[id] {
            Node::Int(value) => usize::try_from(value).or_else(|_| malformed(format!("{value} is no size"))),
            _ => malformed("its pickle has something else where a size belongs"),
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id]> {
        match &self.nodes[id] {
            Node::Tuple(items) => Ok(items),
            _ => malformed("its pickle has something else where a tuple belongs"),
        }
    }

    /// A shape or its strides. One long tuple could be named again and again, and each time would be copied.
    fn indices(&self, id: Id) -> Result<Vec<usize>> {
        let items = self.tuple(id)?;
        if items.len() > MAX_DIMS {
            return malformed(format!("its pickle has a tensor of {} dimensions", items.len()));
        }
        items.iter().map(|&item| self.index(item)).collect()
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match class(module, name) {
            Some(class) => self.push(Node::Class(class)),
            None => return Err(PickleError::Code(printable(module, name))),
        }
        Ok(())
    }

    fn extend_dict(&mut self, pairs: impl IntoIterator<Item = (Id, Id)>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::Dict(items) => items.extend(pairs),
            _ => return malformed("its pickle sets items of something that is not a dictionary"),
        }
        Ok(())
    }

    /// `("storage", class, key, location, length)`: the elements are in the archive under `data/key`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let &[kind, class, key, _location, len] = self.tuple(id)? else {
            return malformed("its pickle has a storage that is not a tuple of five");
        };
        let (Node::Class(Class::Storage(dtype)), "storage") = (&self.nodes[class], self.text(kind)?) else {
            return malformed("its pickle has a storage of no known type");
        };
        let (dtype, key, len) = (*dtype, self.text(key)?, self.index(len)?);
        if key.len() > MAX_STORAGE_NAME {
            return malformed(format!("its pickle has a storage with a name of {} bytes", key.len()));
        }
        self.push(Node::Storage { dtype, key, len });
        Ok(())
    }

    /// What a call of one of the known names would give; nothing is called.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?;
        let node = match self.nodes[callable] {
            Node::Class(Class::OrderedDict) if arguments.is_empty() => Node::Dict(Vec::new()),
            Node::Class(Class::RebuildTensor) => {
                let &[storage, offset, shape, strides, ..] = arguments else {
                    return malformed("its pickle has a tensor without a shape");
                };
                let Node::Storage { dtype, key, len } = self.nodes[storage] else {
                    return malformed("its pickle has a tensor without a storage");
                };
                let view = TensorView {
                    dtype,
                    storage: key.to_owned(),
                    storage_len: len,
                    offset: self.index(offset)?,
                    shape: self.indices(shape)?,
                    strides: self.indices(strides)?,
                };
                if view.shape.len() != view.strides.len() {
                    return malformed("its pickle has a tensor with fewer strides than dimensions");
                }
                Node::Tensor(view)
            }
            Node::Class(Class::RebuildParameter) => {
                match arguments.first().map(|&tensor| &self.nodes[tensor]) {
                    Some(Node::Tensor(view)) => Node::Tensor(view.clone()),
                    _ => return malformed("its pickle has a parameter without a tensor"),
                }
            }
            _ => return malformed("its pickle calls something that makes no tensor"),
        };
        self.push(node);
        Ok(())
    }

    /// Finds the dictionary of tensors and lists it.
    fn contents(&self, root: Id) -> Result<Contents> {
        let Node::Dict(outer) = &self.nodes[root] else {
            return malformed("it holds no dictionary of tensors");
        };
        let entry = |name: &str| {
            let found =
                outer.iter().find(|(key, _)| matches!(self.nodes[*key], Node::Text(text) if text == name));
            found.and_then(|&(_, value)| match &self.nodes[value] {
                Node::Dict(items) => Some(items),
                _ => None,
            })
        };
        let mut contents = Contents::default();
        for &(key, value) in entry("dims").into_iter().flatten() {
            if let Node::Int(value) = self.nodes[value] {
                contents.dims.insert(self.text(key)?.to_owned(), value);
            }
        }
        let mut seen = HashSet::new();
        for &(key, value) in entry("state_dict").or_else(|| entry("model_state_dict")).unwrap_or(outer) {
            let key = self.text(key)?;
            let Node::Tensor(view) = &self.nodes[value] else {
                return malformed(format!("`{}` is not a tensor", key.escape_debug()));
            };
            if !seen.insert(key) {
                return malformed(format!("it has two tensors called `{}`", key.escape_debug()));
            }
            contents.tensors.push((key.to_owned(), view.clone()));
        }
        Ok(contents)
    }
}

/// `module.name`, shortened and without control characters, for a message.
fn printable(module: &str, name: &str) -> String {
    format!("{module}.{name}").chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
