//! Validation of an ONNX file's protocol buffer encoding, before the file is parsed.
//!
//! `rten` 0.27 does not check field lengths against the end of the enclosing message: it allocates a length
//! that exceeds the message, and does not terminate on a varint of more than ten bytes. This check covers
//! every length and every varint in one pass, without copies.

/// Maximum nesting of messages (graphs in attributes of nodes). Networks without loops and branches need 8.
const MAX_DEPTH: usize = 64;

/// The message types of `onnx.proto3` that contain other messages.
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
    /// Only varints and strings.
    Flat,
}

/// Contents of a length-delimited field.
enum Content {
    Message(Message),
    /// Packed varints.
    Varints,
    /// Packed values of this many bytes.
    Fixed(usize),
    Bytes,
}

impl Message {
    /// Contents of the field with this number in `onnx.proto3`.
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
            (Self::Tensor, 5 | 7) => return Content::Varints,
            _ => return Content::Bytes,
        })
    }
}

/// Checks a file; the error gives the problem and its byte offset.
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
    /// Checks a message that ends at byte `end`.
    fn message(&mut self, message: Message, end: usize, depth: usize) -> Checked<()> {
        if depth > MAX_DEPTH {
            return Err("messages are nested too deeply");
        }
        while self.at < end {
            let key = self.varint(end)?;
            match key & 7 {
                0 => drop(self.varint(end)?),
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => {
                    let length = usize::try_from(self.varint(end)?).unwrap_or(usize::MAX);
                    let start = self.at;
                    self.skip(length, end)?;
                    let inner = self.at;
                    self.at = start;
                    match message.content(key >> 3) {
                        Content::Message(message) => self.message(message, inner, depth + 1)?,
                        Content::Varints => {
                            while self.at < inner {
                                self.varint(inner)?;
                            }
                        }
                        Content::Fixed(size) if length % size != 0 => {
                            return Err("a packed list ends within a value");
                        }
                        Content::Fixed(_) | Content::Bytes => self.at = inner,
                    }
                }
                _ => return Err("unknown wire type"),
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
            _ => Err("a value exceeds its message"),
        }
    }

    /// Seven bits per byte, lowest first; the highest bit is set in all bytes but the last.
    fn varint(&mut self, end: usize) -> Checked<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..end].get(self.at) else {
                return Err("a varint exceeds its message");
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a varint is longer than ten bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    }

    #[test]
    fn well_formed_messages_are_accepted() {
        let tensor = [field(4, &[0; 8]), field(7, &[0x80, 1, 5]), field(9, &[0xff; 20])].concat();
        for bytes in
            [vec![], field(7, &field(5, &tensor)), field(7, &field(1, &field(5, &field(5, &tensor))))]
        {
            assert_eq!(check(&bytes), Ok(()));
        }
    }

    /// Found by fuzzing: `rten` did not terminate on the first and allocated 4.8 GB for the second.
    #[test]
    fn long_varints_and_excessive_lengths_are_rejected() {
        let graph = |node: &[u8]| field(7, &field(1, node));
        for (bytes, problem) in [
            ([0xf9; 20].to_vec(), "a varint is longer than ten bytes (byte 10)"),
            (graph(&[0x0a, 0xf4, 0xff, 0xff, 0x88, 0x12]), "a value exceeds its message (byte 10)"),
            (field(7, &field(5, &field(7, &[0x80]))), "a varint exceeds its message (byte 7)"),
            (field(7, &field(5, &field(4, &[0; 6]))), "a packed list ends within a value (byte 6)"),
            (vec![0x0b], "unknown wire type (byte 1)"),
            (vec![0x0a, 2, 0], "a value exceeds its message (byte 2)"),
        ] {
            assert_eq!(check(&bytes), Err(problem.to_string()), "{bytes:?}");
        }
    }

    #[test]
    fn excessive_nesting_is_rejected() {
        let wrap = |number: u8, inner: &[u8]| {
            let length = inner.len();
            [&[number << 3 | 2, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8], inner].concat()
        };
        // A graph in an attribute of a node of a graph, and so on.
        let mut graph = Vec::new();
        for _ in 0..40 {
            graph = wrap(1, &wrap(5, &wrap(6, &graph)));
        }
        assert!(check(&wrap(7, &graph)).unwrap_err().starts_with("messages are nested too deeply"));
    }
}
