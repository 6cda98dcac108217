//! Whether an ONNX file is whole, before a parser takes its word for it.
//!
//! ONNX is protocol buffers: fields of a number, a kind and a value, which may itself be a message. `rten` 0.27
//! reads them without a look at the end of the surrounding message: a length that reaches beyond it is allocated,
//! and a number of more than ten bytes is read for ever. Here every length and every number is checked first, in
//! one pass and without a copy.

/// Messages inside messages: graphs in the attributes of nodes. Networks without loops and branches need 8.
const DEEPEST: usize = 64;

/// The messages of `onnx.proto3` that hold others.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    Shape,
    /// Numbers and strings only.
    Flat,
}

/// What a field of variable length holds.
enum Content {
    Message(Message),
    Numbers,
    /// Values of this many bytes.
    Fixed(usize),
    Bytes,
}

impl Message {
    /// By the field's number in `onnx.proto3`.
    fn content(self, field: u64) -> Content {
        Content::Message(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Model, 8 | 14) | (Self::Tensor, 13) | (Self::Shape, 1) => Self::Flat,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::Node, 5) => Self::Attribute,
            (Self::ValueInfo, 2) | (Self::SequenceType, 1) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::Type, 4) => Self::SequenceType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Tensor, 4) => return Content::Fixed(4),
            (Self::Tensor, 10) => return Content::Fixed(8),
            (Self::Tensor, 5 | 7) => return Content::Numbers,
            _ => return Content::Bytes,
        })
    }
}

/// Checks a whole file. The error says what is wrong and where.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut wire = Wire { bytes, at: 0 };
    wire.message(Message::Model, bytes.len(), 0).map_err(|problem| format!("{problem} (byte {})", wire.at))
}

struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Checked<T> = Result<T, &'static str>;

impl Wire<'_> {
    /// A message that reaches to byte `end`.
    fn message(&mut self, message: Message, end: usize, depth: usize) -> Checked<()> {
        if depth > DEEPEST {
            return Err("messages are nested too deeply");
        }
        while self.at < end {
            let key = self.number(end)?;
            match key & 7 {
                0 => drop(self.number(end)?),
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => {
                    let length = usize::try_from(self.number(end)?).unwrap_or(usize::MAX);
                    let start = self.at;
                    self.skip(length, end)?;
                    let inner = self.at;
                    self.at = start;
                    match message.content(key >> 3) {
                        Content::Message(message) => self.message(message, inner, depth + 1)?,
                        Content::Numbers => {
                            while self.at < inner {
                                self.number(inner)?;
                            }
                        }
                        Content::Fixed(size) if length % size != 0 => {
                            return Err("a list ends within a value");
                        }
                        Content::Fixed(_) | Content::Bytes => self.at = inner,
                    }
                }
                _ => return Err("a field of a kind that ONNX does not have"),
            }
        }
        Ok(())
    }

    fn skip(&mut self, count: usize, end: usize) -> Checked<()> {
        match self.at.checked_add(count) {
            Some(next) if next <= end => {
                self.at = next;
                Ok(())
            }
            _ => Err("a value reaches beyond its message"),
        }
    }

    /// Seven bits to a byte, lowest first; the highest bit says that more follow.
    fn number(&mut self, end: usize) -> Checked<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..end].get(self.at) else {
                return Err("a number reaches beyond its message");
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number does not end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of variable length.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn what_is_whole_is_accepted() {
        let tensor = [field(4, &[0; 8]), field(7, &[0x80, 1, 5]), field(9, &[0xff; 20])].concat();
        for bytes in
            [vec![], field(7, &field(5, &tensor)), field(7, &field(1, &field(5, &field(5, &tensor))))]
        {
            assert_eq!(check(&bytes), Ok(()));
        }
    }

    /// Found by fuzzing: `rten` read the first for ever and allocated 4.8 GB for the second.
    #[test]
    fn numbers_without_end_and_lengths_beyond_the_message_are_refused() {
        let graph = |node: &[u8]| field(7, &field(1, node));
        for (bytes, problem) in [
            ([0xf9; 20].to_vec(), "a number does not end (byte 10)"),
            (graph(&[0x0a, 0xf4, 0xff, 0xff, 0x88, 0x12]), "a value reaches beyond its message (byte 10)"),
            (field(7, &field(5, &field(7, &[0x80]))), "a number reaches beyond its message (byte 7)"),
            (field(7, &field(5, &field(4, &[0; 6]))), "a list ends within a value (byte 6)"),
            (vec![0x0b], "a field of a kind that ONNX does not have (byte 1)"),
            (vec![0x0a, 2, 0], "a value reaches beyond its message (byte 2)"),
        ] {
            assert_eq!(check(&bytes), Err(problem.to_string()), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let wrap = |number: u8, inner: &[u8]| {
            let length = inner.len();
            [&[number << 3 | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8], inner].concat()
        };
        // A graph in an attribute of a node of a graph in …
        let mut graph = Vec::new();
        for _ in 0..40 {
            graph = wrap(1, &wrap(5, &wrap(6, &graph)));
        }
        assert!(check(&wrap(7, &graph)).unwrap_err().starts_with("messages are nested too deeply"));
    }
}
