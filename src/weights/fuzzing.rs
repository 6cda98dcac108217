//! The private parsers of this module, for [`crate::fuzzing`].

use std::path::Path;

use candle_core::{DType, Device};
use models::unet::UNet3DConfig;

use super::checkpoint::{data_section, model_section};
use super::locate::UnetConfigText;
use super::pickle::{self, PickleError};
use super::tensor_file::TensorFile;
use crate::system;
use crate::weights::{Error, Result};

/// Reads a bare pickle.
pub fn pickle(bytes: &[u8]) -> Result<()> {
    let problem = |problem| Error::File { path: "data.pkl".into(), problem };
    pickle::read(bytes).map(drop).map_err(|error| match error {
        PickleError::Code(name) => Error::Code { path: "data.pkl".into(), name },
        PickleError::Malformed(text) => problem(text),
    })
}

/// Opens a file of tensors and copies the first `tensors` of them out.
pub fn tensor_file(path: &Path, tensors: usize) -> Result<()> {
    let file = TensorFile::open(path.to_owned().into())?;
    for tensor in file.tensors().values().take(tensors) {
        file.read(tensor, DType::F32, &Device::Cpu)
            .map_err(|source| system::Error::Compute { stage: "reading a tensor", source: source.into() })?;
    }
    Ok(())
}

/// Reads `unet_config.yaml`, as opening and loading a checkpoint do.
pub fn unet_config(text: &str) -> Result<UNet3DConfig> {
    let config = UnetConfigText { yaml: text.to_owned(), origin: "`unet_config.yaml`".into() };
    data_section(&config)?;
    model_section(&config)
}
