//! The demo model, which is a part of the program: a small LatentSync that knows drawn faces. Its files have the
//! published formats; `scripts/train_demo` makes them.

use super::locate::ModelFiles;
use super::model_file::ModelFile;
use crate::weights::Result;

#[cfg(feature = "demo")]
macro_rules! built_in {
    ($name:literal) => {{
        static FILE: super::model_file::BuiltIn = super::model_file::BuiltIn {
            path: concat!("demo/", $name),
            bytes: include_bytes!(concat!("../../models/demo/", $name)),
        };
        ModelFile::BuiltIn(&FILE)
    }};
}

#[cfg(feature = "demo")]
pub(super) fn files() -> Result<ModelFiles> {
    Ok(ModelFiles {
        unet: built_in!("latentsync_unet.pt"),
        unet_config: Some(super::locate::UnetConfigText {
            yaml: include_str!("../../models/demo/unet_config.yaml").into(),
            origin: "`demo/unet_config.yaml`".into(),
        }),
        vae: built_in!("vae/diffusion_pytorch_model.safetensors"),
        vae_config: built_in!("vae/config.json"),
    })
}

#[cfg(feature = "demo")]
pub(super) fn whisper() -> Result<ModelFile> {
    Ok(built_in!("whisper/tiny.pt"))
}

/// The plane of [`KnownFaces`](crate::weights::known_faces::KnownFaces).
#[cfg(feature = "demo")]
pub(super) fn known_faces() -> Result<ModelFile> {
    Ok(built_in!("known_faces.safetensors"))
}

#[cfg(not(feature = "demo"))]
pub(super) fn files() -> Result<ModelFiles> {
    Err(absent())
}

#[cfg(not(feature = "demo"))]
pub(super) fn whisper() -> Result<ModelFile> {
    Err(absent())
}

#[cfg(not(feature = "demo"))]
pub(super) fn known_faces() -> Result<ModelFile> {
    Err(absent())
}

#[cfg(not(feature = "demo"))]
fn absent() -> crate::weights::Error {
    crate::weights::Error::NoDemoModel
}
