//! A file of named tensors, memory-mapped: PyTorch's zip archives (`.pt`, `.bin`) and `.safetensors`. Opening
//! reads the directory only; each tensor is copied out, in the wanted dtype, when it is asked for, and its
//! pages are given back at once. So loading a network takes its own size and one tensor more, however large
//! the file is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use zip::ZipArchive;
use zip::result::ZipError;

use super::model_file::{Bytes, ModelFile};
use super::pickle::{self, Contents, PickleError};
use crate::weights::{Error, Result};

/// Key under which a converted file says which published file it was made from.
pub(super) const SOURCE_SHA256: &str = "source_sha256";
/// Key under which a converted Whisper keeps its dimensions, as JSON.
pub(super) const DIMS: &str = "dims";

/// An open file of tensors.
#[derive(Debug)]
pub(super) struct TensorFile {
    file: ModelFile,
    map: Bytes,
    tensors: BTreeMap<String, StoredTensor>,
    /// The free-form header entries of a safetensors file.
    notes: BTreeMap<String, String>,
    /// Whisper's dimensions, where the file carries some.
    dims: BTreeMap<String, i64>,
}

/// Where a tensor lies in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredTensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// In elements; row-major when absent.
    strides: Option<Vec<usize>>,
    bytes: Range<usize>,
}

impl StoredTensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl TensorFile {
    /// Opens `file`, whichever of the formats it has.
    pub fn open(file: ModelFile) -> Result<Self> {
        let map = file.map()?;
        if map.is_empty() {
            return Err(truncated(file.path(), 0, "a file of tensors".into()));
        }
        let mut this =
            Self { file, map, tensors: BTreeMap::new(), notes: BTreeMap::new(), dims: BTreeMap::new() };
        // A safetensors file begins with its header's length, which may be any bytes; the header's brace tells it.
        if this.map.get(8) == Some(&b'{') {
            this.index_safetensors()?;
        } else if this.map.starts_with(b"PK") {
            this.index_archive()?;
        } else if this.map[0] == 0x80 {
            return Err(this.refuse_bare_pickle());
        } else {
            this.index_safetensors()?;
        }
        // Reading the directory has touched pages all over the file.
        this.map.release(0, this.map.len());
        Ok(this)
    }

    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    pub fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    pub fn dims(&self) -> &BTreeMap<String, i64> {
        &self.dims
    }

    /// Gives tensors other names and shapes: `rename` gets a key and the tensor, which it may reshape, and
    /// returns the key to use. Two tensors under one name are an error.
    pub fn rename(mut self, rename: impl Fn(&str, &mut StoredTensor) -> String) -> Result<Self> {
        for (key, mut tensor) in std::mem::take(&mut self.tensors) {
            let renamed = rename(&key, &mut tensor);
            if self.tensors.insert(renamed.clone(), tensor).is_some() {
                return Err(self.problem(format!("it has two tensors called `{renamed}`")));
            }
        }
        Ok(self)
    }

    /// Copies one tensor out, as `dtype` on `device`.
    pub fn read(&self, tensor: &StoredTensor, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let bytes = &self.map[tensor.bytes.clone()];
        let bytes = match &tensor.strides {
            None => Cow::Borrowed(bytes),
            Some(strides) => Cow::Owned(gather(bytes, tensor.dtype.size_in_bytes(), &tensor.shape, strides)),
        };
        let read = match converted(&bytes, tensor, dtype, device) {
            Some(read) => read?,
            None => Tensor::from_raw_buffer(&bytes, tensor.dtype, &tensor.shape, device)?.to_dtype(dtype)?,
        };
        self.map.release(tensor.bytes.start, tensor.bytes.len());
        Ok(read)
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        Error::File { path: self.path().to_owned(), problem: problem.into() }
    }

    fn pickle_error(&self, error: PickleError) -> Error {
        match error {
            PickleError::Code(name) => Error::Code { path: self.path().to_owned(), name },
            PickleError::Malformed(problem) => self.problem(problem),
        }
    }

    /// A pickle that is not inside an archive is either PyTorch's format of before 2020 or no weights at all.
    fn refuse_bare_pickle(&self) -> Error {
        match pickle::read(&self.map) {
            Err(error @ PickleError::Code(_)) => self.pickle_error(error),
            _ => self.problem(
                "it is a pickle outside an archive, the format of PyTorch before 1.6; load and save it again",
            ),
        }
    }

    /// PyTorch's archive: `NAME/data.pkl` describes the tensors, `NAME/data/KEY` holds a storage, uncompressed.
    fn index_archive(&mut self) -> Result<()> {
        let mut archive = match ZipArchive::new(Cursor::new(&self.map[..])) {
            Ok(archive) => archive,
            // The directory is at the end, so a file that was cut off has none.
            Err(ZipError::InvalidArchive(_)) => return Err(self.truncated_archive()),
            Err(error) => return Err(self.problem(format!("it is no archive of PyTorch: {error}"))),
        };
        let mut storages = BTreeMap::new();
        let mut pickles = Vec::new();
        for index in 0..archive.len() {
            let mut entry =
                archive.by_index(index).map_err(|e| self.problem(format!("its archive is damaged: {e}")))?;
            let name =
                entry.name().map_err(|e| self.problem(format!("its archive is damaged: {e}")))?.into_owned();
            let Some((_, inner)) = name.split_once('/') else {
                continue;
            };
            match inner {
                "data.pkl" if pickles.len() > 1 => {}
                "data.pkl" => {
                    let mut bytes = Vec::new();
                    // The bound is pickle::read's, which gives the message.
                    let limit = pickle::MAX_BYTES as u64 + 1;
                    entry
                        .by_ref()
                        .take(limit)
                        .read_to_end(&mut bytes)
                        .map_err(|e| self.problem(format!("its pickle is damaged: {e}")))?;
                    pickles.push(bytes);
                }
                "byteorder" => {
                    let mut order = String::new();
                    let read = entry.by_ref().take(8).read_to_string(&mut order);
                    if read.is_err() || order.trim() != "little" {
                        return Err(self.problem("its numbers are not stored little end first"));
                    }
                }
                _ => {
                    if let Some(key) = inner.strip_prefix("data/") {
                        let range = stored_range(&entry, self.map.len()).ok_or_else(|| {
                            self.problem(format!("`{name}` is compressed or outside the file"))
                        })?;
                        storages.insert(key.to_owned(), range);
                    }
                }
            }
        }
        let [bytes] = pickles.as_slice() else {
            let which = if pickles.is_empty() { "no" } else { "more than one" };
            return Err(self.problem(format!("it has {which} `data.pkl`")));
        };
        let Contents { tensors, dims } = pickle::read(bytes).map_err(|e| self.pickle_error(e))?;
        for (key, view) in tensors {
            let storage = storages
                .get(&view.storage)
                .ok_or_else(|| self.problem(format!("the data of `{key}` is missing")))?;
            let tensor = view_in(&view, storage)
                .ok_or_else(|| self.problem(format!("`{key}` reaches beyond its data")))?;
            self.tensors.insert(key, tensor);
        }
        self.dims = dims;
        Ok(())
    }

    /// The pickle comes first in the archive and says how much data there must be.
    fn truncated_archive(&self) -> Error {
        let field = |at: usize| {
            let bytes = self.map.get(at..at + 2)?;
            Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
        };
        let pickle = field(26).zip(field(28)).and_then(|(name, extra)| self.map.get(30 + name + extra..));
        let contents = match pickle.map(pickle::read) {
            Some(Err(error @ PickleError::Code(_))) => return self.pickle_error(error),
            Some(Ok(contents)) => contents,
            _ => return truncated(self.path(), self.map.len() as u64, "a whole archive".into()),
        };
        let mut storages = BTreeMap::new();
        for (_, view) in &contents.tensors {
            storages.insert(&view.storage, view.storage_len.saturating_mul(view.dtype.size_in_bytes()));
        }
        let least = storages.values().fold(0_usize, |sum, &bytes| sum.saturating_add(bytes));
        truncated(self.path(), self.map.len() as u64, format!("more than {least}"))
    }

    fn index_safetensors(&mut self) -> Result<()> {
        let (header, metadata) = match SafeTensors::read_metadata(&self.map) {
            Ok(read) => read,
            Err(error) => return Err(self.safetensors_error(error)),
        };
        let data = 8 + header;
        for (key, info) in metadata.tensors() {
            let dtype = DType::try_from(info.dtype).map_err(|_| {
                self.problem(format!("`{key}` has dtype {:?}, which is not supported", info.dtype))
            })?;
            let (start, end) = info.data_offsets;
            self.tensors.insert(
                key.clone(),
                StoredTensor {
                    dtype,
                    shape: info.shape.clone(),
                    strides: None,
                    bytes: data + start..data + end,
                },
            );
        }
        self.notes = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        if let Some(dims) = self.note(DIMS) {
            self.dims = serde_json::from_str(dims).map_err(|e| self.problem(format!("its `{DIMS}`: {e}")))?;
        }
        Ok(())
    }

    fn safetensors_error(&self, error: SafeTensorError) -> Error {
        let len = self.map.len() as u64;
        let header = self.map.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        match (error, header) {
            (SafeTensorError::HeaderTooSmall, _) => {
                self.problem(format!("it is no checkpoint, only {len} bytes"))
            }
            // A length that the format allows, and the opening brace where it belongs: the rest is missing.
            (SafeTensorError::InvalidHeaderLength, Some(header))
                if self.map.get(8).is_none_or(|&b| b == b'{') =>
            {
                truncated(self.path(), len, format!("more than {}", header.saturating_add(8)))
            }
            (SafeTensorError::MetadataIncompleteBuffer, Some(header)) => match self.data_end(header) {
                Some(end) if end > len => truncated(self.path(), len, end.to_string()),
                Some(end) => self.problem(format!("it is {len} bytes long, expected {end}")),
                None => self.problem("its header does not fit its data"),
            },
            (error, _) => self.problem(format!("it is no file of tensors: {error}")),
        }
    }

    /// Where the data ends, as the header says.
    fn data_end(&self, header: u64) -> Option<u64> {
        let end = usize::try_from(header.checked_add(8)?).ok()?;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(self.map.get(8..end)?).ok()?;
        let last = header.values().filter_map(|info| info["data_offsets"][1].as_u64()).max()?;
        last.checked_add(end as u64)
    }
}

fn truncated(path: &Path, bytes: u64, expected: String) -> Error {
    Error::Truncated { path: path.to_owned(), bytes, expected, model: super::locate::package_of(path) }
}

/// The bytes of an archive entry, if it is stored as it is and inside the file.
fn stored_range<R: Read>(entry: &zip::read::ZipFile<'_, R>, file_len: usize) -> Option<Range<usize>> {
    if entry.compression() != zip::CompressionMethod::Stored {
        return None;
    }
    let start = usize::try_from(entry.data_start()?).ok()?;
    let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
    (end <= file_len).then_some(start..end)
}

/// The part of `storage` that `view` covers, or `None` where it does not fit.
fn view_in(view: &pickle::TensorView, storage: &Range<usize>) -> Option<StoredTensor> {
    let element = view.dtype.size_in_bytes();
    if view.storage_len.checked_mul(element)? > storage.len() {
        return None;
    }
    let mut len = 1_usize;
    let mut last = 0_usize; // the last element's distance from the first
    let mut row_major = true;
    for (&size, &stride) in view.shape.iter().zip(&view.strides).rev() {
        row_major &= size == 1 || stride == len;
        len = len.checked_mul(size)?;
        last = last.checked_add(size.saturating_sub(1).checked_mul(stride)?)?;
    }
    // A stride of 0 would let a small file describe an endless tensor.
    if len > view.storage_len {
        return None;
    }
    let end = if len == 0 { view.offset } else { view.offset.checked_add(last)?.checked_add(1)? };
    if end > view.storage_len {
        return None;
    }
    Some(StoredTensor {
        dtype: view.dtype,
        shape: view.shape.clone(),
        strides: (!row_major && len > 0).then(|| view.strides.clone()),
        bytes: storage.start + view.offset * element..storage.start + end * element,
    })
}

/// Straight from the file's bytes into the tensor's own memory, converted on the way. The general way needs a
/// copy in between; it remains for integers, and for other devices, where the transfer comes first.
fn converted(
    bytes: &[u8],
    tensor: &StoredTensor,
    dtype: DType,
    device: &Device,
) -> Option<candle_core::Result<Tensor>> {
    if !device.is_cpu() {
        return None;
    }
    let (from, shape) = (tensor.dtype, tensor.shape.as_slice());
    Some(match (from, dtype) {
        (DType::F16, DType::F16) => Tensor::from_vec(halves(bytes, f16::from_le_bytes), shape, device),
        (DType::BF16, DType::BF16) => Tensor::from_vec(halves(bytes, bf16::from_le_bytes), shape, device),
        (_, DType::F32) => Tensor::from_vec(floats(bytes, from, |value| value)?, shape, device),
        (_, DType::F16) => Tensor::from_vec(floats(bytes, from, f16::from_f32)?, shape, device),
        (_, DType::BF16) => Tensor::from_vec(floats(bytes, from, bf16::from_f32)?, shape, device),
        _ => return None,
    })
}

fn halves<T>(bytes: &[u8], read: fn([u8; 2]) -> T) -> Vec<T> {
    let (pairs, _) = bytes.as_chunks();
    pairs.iter().map(|pair| read(*pair)).collect()
}

fn floats<T>(bytes: &[u8], from: DType, cast: impl Fn(f32) -> T) -> Option<Vec<T>> {
    let (quads, _) = bytes.as_chunks();
    let (pairs, _) = bytes.as_chunks();
    Some(match from {
        DType::F32 => quads.iter().map(|quad| cast(f32::from_le_bytes(*quad))).collect(),
        DType::F16 => pairs.iter().map(|pair| cast(f16::from_le_bytes(*pair).to_f32())).collect(),
        DType::BF16 => pairs.iter().map(|pair| cast(bf16::from_le_bytes(*pair).to_f32())).collect(),
        _ => return None,
    })
}

/// The elements of a strided view, row by row.
fn gather(bytes: &[u8], element: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let len: usize = shape.iter().product();
    let mut gathered = Vec::with_capacity(len * element);
    let mut index = vec![0; shape.len()];
    for _ in 0..len {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>() * element;
        gathered.extend_from_slice(&bytes[at..at + element]);
        for (i, &size) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    gathered
}

#[cfg(test)]
mod tests;
