//! Keys of stored results: jobs with equal keys compute equal results.

use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::system::cancel::CancelToken;
use crate::system::digest::{HashError, hash_into, hex};
use crate::system::{Error, Result};

/// Builder of a key: the SHA-256 of a sequence of named fields.
///
/// The key depends on the fields' names, types and order, never on the text of a `Debug` implementation. A
/// change to the set of fields or to the meaning of one requires a new version.
pub struct CacheKey(Sha256);

impl CacheKey {
    /// `kind`: kind of result; `version`: version of its fields. Keys of different releases of this program
    /// differ.
    pub fn new(kind: &str, version: u32) -> Self {
        Self(Sha256::new())
            .field("kind", kind)
            .field("key_version", version)
            .field("program_version", env!("CARGO_PKG_VERSION"))
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl KeyValue) -> Self {
        let mut bytes = Vec::new();
        value.write_to(&mut bytes);
        // With their lengths, so that different sequences of fields have different bytes.
        for part in [name.as_bytes(), &bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// The key as 64 hexadecimal digits, usable as a file name.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// A value with a fixed encoding in a [`CacheKey`]: a tag for its type, then its bytes.
pub trait KeyValue {
    fn write_to(&self, bytes: &mut Vec<u8>);
}

impl<T: KeyValue + ?Sized> KeyValue for &T {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        (**self).write_to(bytes);
    }
}

impl KeyValue for str {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(b's');
        bytes.extend(self.as_bytes());
    }
}

impl KeyValue for String {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        self.as_str().write_to(bytes);
    }
}

impl KeyValue for bool {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend([b'b', u8::from(*self)]);
    }
}

impl KeyValue for u64 {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(b'u');
        bytes.extend(self.to_le_bytes());
    }
}

impl KeyValue for u32 {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        u64::from(*self).write_to(bytes);
    }
}

impl KeyValue for usize {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        (*self as u64).write_to(bytes);
    }
}

impl KeyValue for f64 {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(b'f');
        bytes.extend(self.to_bits().to_le_bytes());
    }
}

impl KeyValue for f32 {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        f64::from(*self).write_to(bytes);
    }
}

impl<T: KeyValue> KeyValue for Option<T> {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Some(value) => value.write_to(bytes),
            None => bytes.push(b'n'),
        }
    }
}

/// SHA-256 of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// Reads the whole file. Stops with [`Error::Interrupted`] soon after cancellation.
    pub fn of_file(path: &Path, cancel: &CancelToken) -> Result<Self> {
        let refuse = |source| Error::ReadFile { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(refuse)?;
        let mut hasher = Sha256::new();
        hash_into(&mut hasher, &mut file, |_| cancel.check()).map_err(|error| match error {
            HashError::Read(source) => refuse(source),
            HashError::Stopped(error) => error,
        })?;
        Ok(Self(hasher.finalize().into()))
    }
}

impl KeyValue for ContentDigest {
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.push(b'd');
        bytes.extend(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_if_any_field_differs() {
        let key = |a: &str, b: &str| CacheKey::new("test", 1).field("a", a).field("b", b).finish();
        assert_eq!(key("x", "y"), key("x", "y"));
        assert_ne!(key("x", "y"), key("xb", "y"));
        assert_ne!(key("xb", ""), key("x", "b"));
        let empty = |kind, version| CacheKey::new(kind, version).finish();
        assert_ne!(empty("test", 1), empty("test", 2));
        assert_ne!(empty("test", 1), empty("other", 1));
    }

    #[test]
    fn values_of_different_types_differ() {
        let mut keys: Vec<String> = [
            CacheKey::new("test", 1).field("a", "1"),
            CacheKey::new("test", 1).field("a", 1u64),
            CacheKey::new("test", 1).field("a", 1.0f64),
            CacheKey::new("test", 1).field("a", true),
            CacheKey::new("test", 1).field("a", None::<u64>),
            CacheKey::new("test", 1).field("a", ""),
            CacheKey::new("test", 1).field("b", 1u64),
            CacheKey::new("test", 1),
        ]
        .map(CacheKey::finish)
        .to_vec();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        let some = CacheKey::new("test", 1).field("a", Some(1u32)).finish();
        assert_eq!(some, CacheKey::new("test", 1).field("a", 1usize).finish());
    }

    #[test]
    fn a_digest_follows_the_content_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let digest = || ContentDigest::of_file(file.path(), &CancelToken::new()).unwrap();
        let before = digest();
        std::fs::write(file.path(), "more").unwrap();
        assert_ne!(digest(), before);
    }
}
