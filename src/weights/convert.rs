//! `models convert`: a smaller copy of a model in safetensors files, which are memory-mapped when they are
//! loaded and need no unpickling. Written tensor by tensor.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use safetensors::View;
use serde_json::{Value, json};

use super::locate::KNOWN_FACES;
use super::model_file::ModelFile;
use super::tensor_file::{DIMS, SOURCE_SHA256, StoredTensor, TensorFile};
use super::{Checkpoint, HubSettings, OnProgress, Progress, hub};
use crate::options::ModelChoice;
use crate::system;
use crate::system::temp_outputs::Unfinished;
use crate::weights::{Error, Result};

/// What to convert, where to, and to what.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    pub source: ModelChoice,
    /// Created; must not exist yet.
    pub output: PathBuf,
    /// `BF16`, `F16` or `F32`.
    pub dtype: DType,
}

/// What [`convert`] wrote.
#[derive(Debug, Clone)]
pub struct Converted {
    pub directory: PathBuf,
    /// Bytes of the weight files before and after.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Writes safetensors copies of a model's networks, and its configurations, into a new directory that
/// `--model` takes. The directory appears when it is complete, or not at all.
pub fn convert(
    options: &ConvertOptions,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<Converted> {
    if !matches!(options.dtype, DType::BF16 | DType::F16 | DType::F32) {
        return Err(Error::StorageType(options.dtype));
    }
    let output = std::path::absolute(&options.output).map_err(|e| write_error(&options.output, e))?;
    let (Some(parent), false) = (output.parent(), output.exists()) else {
        return Err(Error::OutputExists { path: output });
    };
    let checkpoint = Checkpoint::open(&options.source, settings)?;
    fs::create_dir_all(parent).map_err(|e| write_error(parent, e))?;
    // Removed with all that is in it if anything below fails.
    let unfinished = tempfile::Builder::new()
        .prefix(".latentsync-convert-")
        .tempdir_in(parent)
        .map_err(|e| write_error(parent, e))?;
    let _unfinished = Unfinished::new(unfinished.path())?;
    let directory = unfinished.path().join("model");
    let [unet, vae, whisper] = checkpoint.files();
    let whisper_name = whisper.path().file_stem().unwrap_or_default().to_string_lossy();
    let copies = [
        (unet, "latentsync_unet.safetensors".to_owned()),
        (vae, "vae/diffusion_pytorch_model.safetensors".to_owned()),
        (whisper, format!("whisper/{}.safetensors", whisper_stem(&whisper_name))),
    ];
    for folder in ["vae", "whisper"] {
        let folder = directory.join(folder);
        fs::create_dir_all(&folder).map_err(|e| write_error(&folder, e))?;
    }
    let mut converted = Converted { directory: output.clone(), bytes_before: 0, bytes_after: 0 };
    for (file, name) in copies {
        let path = directory.join(&name);
        let copy = Copy { from: file, name: &name, dtype: options.dtype };
        copy.write(&path, on_progress)?;
        converted.bytes_before += file.file().len()?;
        converted.bytes_after += ModelFile::from(path).len()?;
    }
    let config = directory.join("unet_config.yaml");
    fs::write(&config, checkpoint.unet_yaml()).map_err(|e| write_error(&config, e))?;
    let config = directory.join("vae/config.json");
    fs::write(&config, checkpoint.vae_json()?).map_err(|e| write_error(&config, e))?;
    if let Some(file) = checkpoint.known_faces_file() {
        let copy = directory.join(KNOWN_FACES);
        fs::write(&copy, file.read()?).map_err(|e| write_error(&copy, e))?;
    }
    fs::rename(&directory, &output).map_err(|e| write_error(&output, e))?;
    Ok(converted)
}

/// A blob of the cache may be named by its hash; Whisper is then the published `tiny`.
fn whisper_stem(stem: &str) -> &str {
    if stem == "small" { "small" } else { "tiny" }
}

fn write_error(path: &Path, source: std::io::Error) -> Error {
    Error::Write { path: path.to_owned(), source }
}

/// One file's copy.
struct Copy<'a> {
    from: &'a TensorFile,
    name: &'a str,
    dtype: DType,
}

impl Copy<'_> {
    fn write(&self, path: &Path, on_progress: OnProgress<'_>) -> Result<()> {
        // Large elements first, so that every tensor begins at a multiple of its element's size.
        let mut tensors: Vec<(&String, &StoredTensor, DType)> =
            self.from.tensors().iter().map(|(key, tensor)| (key, tensor, self.dtype_of(tensor))).collect();
        tensors.sort_by_key(|(_, _, dtype)| std::cmp::Reverse(dtype.size_in_bytes()));
        let (header, total) = self.header(&tensors, on_progress)?;

        let mut file = BufWriter::new(File::create(path).map_err(|e| write_error(path, e))?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(|e| write_error(path, e))?;
        file.write_all(&header).map_err(|e| write_error(path, e))?;
        let mut done = 0;
        for (_, tensor, dtype) in tensors {
            on_progress(Progress { file: self.name, done, total })?;
            let tensor = self.from.read(tensor, dtype, &Device::Cpu).map_err(|source| {
                system::Error::Compute { stage: "converting the model", source: source.into() }
            })?;
            let bytes = View::data(&tensor);
            file.write_all(&bytes).map_err(|e| write_error(path, e))?;
            done += bytes.len() as u64;
        }
        let file = file.into_inner().map_err(|e| write_error(path, e.into_error()))?;
        file.sync_all().map_err(|e| write_error(path, e))?;
        on_progress(Progress { file: self.name, done, total })
    }

    /// Integers keep their type.
    fn dtype_of(&self, tensor: &StoredTensor) -> DType {
        if tensor.dtype.is_float() { self.dtype } else { tensor.dtype }
    }

    /// The JSON header, padded to a multiple of 8, and the bytes of data that follow it.
    fn header(
        &self,
        tensors: &[(&String, &StoredTensor, DType)],
        on_progress: OnProgress<'_>,
    ) -> Result<(Vec<u8>, u64)> {
        let source = self.from.path().file_name().unwrap_or_default().to_string_lossy();
        let hash = match (self.from.note(SOURCE_SHA256), hub::hash_in_name(self.from.path())) {
            (Some(hash), _) => hash.to_owned(),
            (None, Some(hash)) => hash,
            (None, None) => self.from.file().sha256(&source, on_progress)?,
        };
        let mut notes = BTreeMap::from([
            ("format", "pt".to_owned()),
            ("source", source.into_owned()),
            (SOURCE_SHA256, hash),
        ]);
        if !self.from.dims().is_empty() {
            notes.insert(DIMS, json!(self.from.dims()).to_string());
        }
        let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!(notes))]);
        let mut end = 0;
        for (key, tensor, dtype) in tensors {
            let start = end;
            end += (tensor.len() * dtype.size_in_bytes()) as u64;
            let info = json!({
                "dtype": safetensors::Dtype::from(*dtype),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            header.insert((*key).clone(), info);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok((header, end))
    }
}
