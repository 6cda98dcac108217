//! Reader for dlib's serialization format, limited to the types of a shape predictor.
//!
//! An integer is a control byte (low four bits: number of bytes that follow, highest bit: negative) and the
//! magnitude, little-endian. A float is two integers, mantissa and binary exponent. A vector is its length
//! and its elements; a matrix is its negated numbers of rows and columns and its elements.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::FaceModelError;

const BUFFER: usize = 1 << 16;
/// Maximum size of an integer: one control byte and eight bytes.
const MAX_INTEGER_BYTES: usize = 9;

/// Buffered reader that tracks its offset for error messages.
pub(super) struct DlibReader<R> {
    source: R,
    path: PathBuf,
    /// Bytes of the whole stream; element counts are checked against the remainder.
    length: u64,
    /// Offset of `buffer[0]` in the stream.
    base: u64,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl DlibReader<File> {
    pub fn open(path: &Path) -> Result<Self, FaceModelError> {
        let read = |source| FaceModelError::Read { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(FaceModelError::Unexpected {
                path: path.to_path_buf(),
                what: "it is not a file".into(),
            });
        }
        Ok(Self::new(file, path, metadata.len()))
    }
}

impl<R: Read> DlibReader<R> {
    pub fn new(source: R, path: &Path, length: u64) -> Self {
        Self { source, path: path.to_path_buf(), length, base: 0, buffer: vec![0; BUFFER], at: 0, end: 0 }
    }

    /// An error at the current offset.
    pub fn damaged(&self, what: impl Into<String>) -> FaceModelError {
        FaceModelError::Damaged {
            path: self.path.clone(),
            offset: self.base + self.at as u64,
            what: what.into(),
        }
    }

    /// An error for an intact file with other contents.
    pub fn unexpected(&self, what: impl Into<String>) -> FaceModelError {
        FaceModelError::Unexpected { path: self.path.clone(), what: what.into() }
    }

    /// Refills the buffer, so that it contains a complete integer unless the stream ends.
    #[cold]
    fn refill(&mut self) -> Result<(), FaceModelError> {
        self.buffer.copy_within(self.at..self.end, 0);
        self.base += self.at as u64;
        self.end -= self.at;
        self.at = 0;
        while self.end < MAX_INTEGER_BYTES {
            let read = self.source.read(&mut self.buffer[self.end..]);
            match read {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(FaceModelError::Read { path: self.path.clone(), source });
                }
            }
        }
        Ok(())
    }

    #[inline]
    pub fn integer(&mut self, what: &str) -> Result<i64, FaceModelError> {
        if self.end - self.at < MAX_INTEGER_BYTES {
            self.refill()?;
        }
        let bytes = &self.buffer[self.at..self.end];
        // Fast path, with one load and one mask: at least eight bytes follow the control byte.
        if let Some((&[control, ref digits @ ..], _)) = bytes.split_first_chunk::<MAX_INTEGER_BYTES>() {
            let size = u32::from(control & 0x0f);
            if control & 0x70 == 0 && (1..8).contains(&size) {
                let magnitude = u64::from_le_bytes(*digits) & (u64::MAX >> (64 - 8 * size));
                self.at += 1 + size as usize;
                return Ok(if control & 0x80 == 0 { magnitude as i64 } else { -(magnitude as i64) });
            }
        }
        self.integer_slow(what)
    }

    /// Integers of eight bytes, integers at the end of the file, and malformed ones.
    #[cold]
    fn integer_slow(&mut self, what: &str) -> Result<i64, FaceModelError> {
        let bytes = &self.buffer[self.at..self.end];
        let Some(&control) = bytes.first() else {
            return Err(self.damaged(format!("the file ends before {what}")));
        };
        let size = usize::from(control & 0x0f);
        if control & 0x70 != 0 || size == 0 || size > 8 {
            return Err(self.damaged(format!("{what} is not an integer (control byte {control:#04x})")));
        }
        let Some(digits) = bytes.get(1..1 + size) else {
            return Err(self.damaged(format!("the file ends within {what}")));
        };
        let magnitude = digits.iter().rev().fold(0u64, |value, &byte| (value << 8) | u64::from(byte));
        let Ok(value) = i64::try_from(magnitude) else {
            return Err(
                self.damaged(format!("{what} is {magnitude}, which does not fit into 64 bits with a sign"))
            );
        };
        self.at += 1 + size;
        Ok(if control & 0x80 == 0 { value } else { -value })
    }

    /// mantissa × 2^exponent. Rejects infinities, NaN (exponents from 32000) and values beyond the range of
    /// f32.
    #[inline]
    pub fn float(&mut self, what: &str) -> Result<f32, FaceModelError> {
        let mantissa = self.integer(what)?;
        let exponent = self.integer(what)?;
        if !(-1022..=1023).contains(&exponent) {
            return Err(self.damaged(format!("{what} is not a finite number (exponent {exponent})")));
        }
        let power = f64::from_bits(((exponent + 1023) as u64) << 52);
        let value = (mantissa as f64 * power) as f32;
        if !value.is_finite() {
            return Err(self.damaged(format!("{what} is too large ({mantissa} × 2^{exponent})")));
        }
        Ok(value)
    }

    /// The length of a vector whose elements occupy at least `element_bytes` each in the file.
    pub fn count(&mut self, what: &str, element_bytes: u64) -> Result<usize, FaceModelError> {
        let count = self.integer(what)?;
        let left = self.length.saturating_sub(self.base + self.at as u64);
        match u64::try_from(count) {
            Ok(n) if n <= left / element_bytes => Ok(n as usize),
            _ => Err(self.damaged(format!("{what} is {count}, but only {left} bytes are left in the file"))),
        }
    }

    /// The length of a column of floats (a dlib `matrix<float,0,1>`).
    pub fn column(&mut self, what: &str) -> Result<usize, FaceModelError> {
        // dlib negates both sizes to distinguish this layout from an older one.
        let rows = -self.integer(what)?;
        let columns = -self.integer(what)?;
        let left = self.length.saturating_sub(self.base + self.at as u64);
        match u64::try_from(rows) {
            Ok(n) if columns == 1 && n <= left / 4 => Ok(n as usize),
            _ => Err(self.damaged(format!(
                "{what} has {rows} rows and {columns} columns, but one column and {left} bytes are left"
            ))),
        }
    }

    /// Checks that the file ends here.
    pub fn finish(mut self) -> Result<(), FaceModelError> {
        self.refill()?;
        if self.end > self.at {
            return Err(self.damaged("data after the end of the model"));
        }
        Ok(())
    }
}
