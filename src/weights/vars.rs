//! A `VarBuilder` over a file of tensors that keeps the books: after a network is built, every key of the file
//! has been read exactly once, and every key that the network wanted was there in the wanted shape.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::tensor_file::{StoredTensor, TensorFile};
use crate::system;
use crate::weights::{Error, Result};

/// How many unexpected keys a message names.
const NAMED: usize = 3;

/// What a network is loaded as, and which of the file's keys it may leave unread.
pub(super) struct Wanted<'a> {
    pub dtype: DType,
    pub device: &'a Device,
    pub unused: fn(&str) -> bool,
}

impl TensorFile {
    /// Builds a network from the file and checks that the two have the same keys.
    pub fn load<T>(
        &self,
        wanted: &Wanted<'_>,
        build: impl FnOnce(VarBuilder<'_>) -> candle_core::Result<T>,
    ) -> Result<T> {
        let books = Books::default();
        let backend = Backend { file: self, books: &books };
        let vars = VarBuilder::from_backend(Box::new(backend), wanted.dtype, wanted.device.clone());
        let built = build(vars);
        let books = books.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (built, books.failure) {
            (Ok(network), _) => {
                self.all_read(&books.reads, wanted.unused)?;
                Ok(network)
            }
            (Err(_), Some(failure)) => Err(failure),
            (Err(source), None) => {
                Err(system::Error::Compute { stage: "loading the model", source: source.into() }.into())
            }
        }
    }

    fn all_read(&self, reads: &HashMap<String, u32>, unused: fn(&str) -> bool) -> Result<()> {
        if let Some((key, times)) = reads.iter().find(|(_, times)| **times > 1) {
            return Err(Error::File {
                path: self.path().to_owned(),
                problem: format!("`{key}` was read {times} times"),
            });
        }
        let mut unexpected = self.tensors().keys().filter(|key| !reads.contains_key(*key) && !unused(key));
        let keys: Vec<String> = unexpected.by_ref().take(NAMED).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        Err(Error::UnexpectedKeys {
            path: self.path().to_owned(),
            count: keys.len() + unexpected.count(),
            keys,
        })
    }
}

#[derive(Default)]
struct Books(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    reads: HashMap<String, u32>,
    /// The first key that could not be had; the network's own error wraps it beyond recognition.
    failure: Option<Error>,
}

impl Books {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Backend<'a> {
    file: &'a TensorFile,
    books: &'a Books,
}

impl Backend<'_> {
    /// Finds `key`, enters it in the books and copies it out.
    fn fetch(
        &self,
        key: &str,
        shape: Option<&Shape>,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.find(key, shape).map_err(|error| {
            let message = candle_core::Error::msg(&error);
            self.books.entries().failure.get_or_insert(error);
            message
        })?;
        *self.books.entries().reads.entry(key.to_owned()).or_default() += 1;
        self.file.read(tensor, dtype, device)
    }

    fn find(&self, key: &str, shape: Option<&Shape>) -> Result<&StoredTensor> {
        let tensor = self
            .file
            .tensors()
            .get(key)
            .ok_or_else(|| Error::MissingKey { path: self.file.path().to_owned(), key: key.to_owned() })?;
        match shape {
            Some(shape) if shape.dims() != tensor.shape => Err(Error::KeyShape {
                path: self.file.path().to_owned(),
                key: key.to_owned(),
                expected: shape.dims().to_vec(),
                got: tensor.shape.clone(),
            }),
            _ => Ok(tensor),
        }
    }
}

impl SimpleBackend for Backend<'_> {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.fetch(name, Some(&s), dtype, dev)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.fetch(name, None, dtype, dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.file.tensors().contains_key(name)
    }
}
