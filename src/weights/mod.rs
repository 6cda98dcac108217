//! Weights: where they are, what they must be, how they come in. The only place that knows repositories and
//! file names. Nothing here computes; a checkpoint that is not what it should be is refused by name.

mod error;
mod manifest;
mod hub;
mod hub_client;
mod digest;
mod inventory;
mod partial;
mod pull;
mod model_file;
mod demo;
mod pickle;
mod tensor_file;
mod vars;
mod locate;
mod checkpoint;
mod memory_estimate;
pub(crate) mod known_faces;
mod latent_shape;
mod convert;
pub(crate) mod fuzzing;
#[cfg(test)]
#[path = "../../tests/weights/pt.rs"]
mod pt;

pub use checkpoint::{Checkpoint, Stamps, published_unet_config, published_vae_config};
pub use convert::{ConvertOptions, Converted, convert};
pub use error::{DownloadCause, Error, MissingPart, Result};
pub use hub::{HubSettings, InsightFaceLicence};
pub use inventory::{FileState, FileStatus, LocatedFile, PackageStatus, list, path, verify, verify_manifest};
pub use locate::{InsightFaceFiles, insightface_files, published_here, shape_predictor};
pub use manifest::{Manifest, ManifestFile, Package, Role};

pub(crate) use known_faces::KnownFaces;
pub use latent_shape::LatentShape;
pub use memory_estimate::{Activations, BatchSize, MemoryNeeds, Sizes};
pub use pull::{pull, pull_manifest};

/// How far one file has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Path of the file in its repository or directory.
    pub file: &'a str,
    /// Bytes so far, counting what an earlier run had already fetched.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Called several times a second while something takes long. An error (such as [`system::Error::Interrupted`](crate::system::Error::Interrupted)) stops
/// the work and is returned from it.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) -> Result<()> + Send);
