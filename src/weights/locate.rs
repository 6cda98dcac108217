//! Which files make up a model: in the hub's cache, or in a directory of the layouts that people have.

use std::fs;
use std::path::{Path, PathBuf};

use super::demo;
use super::inventory::{list, located};
use super::model_file::ModelFile;
use super::{HubSettings, InsightFaceLicence, ManifestFile, Package, Role};
use crate::options::ModelChoice;
use crate::weights::{Error, MissingPart, Result};

/// Where Debian's `libdlib-data` puts dlib's predictor.
const DEBIAN_PREDICTOR: &str = "/usr/share/dlib/shape_predictor_68_face_landmarks.dat";

/// The configuration of every published UNet, for 512-pixel faces.
const PUBLISHED_CONFIG: &str = include_str!("../../models/latentsync-unet.yaml");

/// Which faces a model knows, beside its UNet: of the demo model's own format.
pub(super) const KNOWN_FACES: &str = "known_faces.safetensors";

const WEIGHT_FORMATS: [&str; 3] = ["safetensors", "pt", "bin"];

/// InsightFace's two ONNX files.
#[derive(Debug, Clone)]
pub struct InsightFaceFiles {
    /// `det_10g.onnx`
    pub detector: PathBuf,
    /// `2d106det.onnx`
    pub landmarks: PathBuf,
}

/// dlib's predictor: from the hub's cache if it was ever fetched, else Debian's copy.
pub fn shape_predictor(settings: &HubSettings) -> Result<PathBuf> {
    published_file(Package::Dlib, Role::ShapePredictor, settings)
}

/// InsightFace's files in the hub's cache, only with the licence accepted.
pub fn insightface_files(licence: InsightFaceLicence, settings: &HubSettings) -> Result<InsightFaceFiles> {
    match licence {
        InsightFaceLicence::NotAccepted => Err(Error::LicenceNotAccepted),
        InsightFaceLicence::Accepted => Ok(InsightFaceFiles {
            detector: published_file(Package::InsightFace, Role::FaceDetector, settings)?,
            landmarks: published_file(Package::InsightFace, Role::FaceLandmarks, settings)?,
        }),
    }
}

/// A published file on this machine, of whatever size it is.
pub(super) fn find(file: &ManifestFile, settings: &HubSettings) -> Option<PathBuf> {
    let debian = Path::new(DEBIAN_PREDICTOR);
    let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.len() == file.bytes);
    let cached = settings.find(file);
    // A copy in the cache was fetched for a reason: Debian's was damaged.
    if file.role == Role::ShapePredictor && !cached.as_deref().is_some_and(is_whole) && is_whole(debian) {
        return Some(debian.to_owned());
    }
    cached
}

fn published_file(package: Package, role: Role, settings: &HubSettings) -> Result<PathBuf> {
    let manifest = package.manifest();
    let file = manifest.file(role).ok_or_else(|| Error::NotPulled {
        model: manifest.name.clone(),
        file: format!("{role:?}"),
        cache: settings.cache.clone(),
    })?;
    Ok(located(manifest, file, settings)?.path)
}

/// Name of the package that a file of the cache belongs to; `None` for files elsewhere.
pub(super) fn package_of(path: &Path) -> Option<String> {
    let in_cache = |package: &&Package| {
        let mut files = package.manifest().files.iter();
        files.any(|file| {
            let folder = format!("models--{}", file.repository.replace('/', "--"));
            path.components().any(|part| part.as_os_str() == folder.as_str())
        })
    };
    Package::ALL.iter().find(in_cache).map(|package| package.name().to_owned())
}

/// A UNet's configuration and where it is from.
#[derive(Debug, Clone)]
pub(super) struct UnetConfigText {
    pub yaml: String,
    /// The file, or what else to call it in a message.
    pub origin: String,
}

impl UnetConfigText {
    /// The built-in one, for faces of `resolution` pixels.
    pub fn published(resolution: usize) -> Self {
        Self {
            yaml: PUBLISHED_CONFIG.replace("resolution: 512\n", &format!("resolution: {resolution}\n")),
            origin: "the built-in configuration".into(),
        }
    }
}

/// The files of a LatentSync. The Whisper depends on the UNet's configuration: see [`whisper`].
#[derive(Debug)]
pub(super) struct ModelFiles {
    pub unet: ModelFile,
    /// `None` where a directory has none.
    pub unet_config: Option<UnetConfigText>,
    pub vae: ModelFile,
    pub vae_config: ModelFile,
}

/// The published model that is whole on this machine: the larger one, or else the smaller one. Where neither is, the larger
/// one, so that the error which its absence will be says how to get it.
pub fn published_here(settings: &HubSettings) -> ModelChoice {
    let packages = list(settings);
    let whole = |package| packages.iter().any(|status| status.package == package && status.complete());
    match whole(Package::LatentSync15) && !whole(Package::LatentSync16) {
        true => ModelChoice::LatentSync15,
        false => ModelChoice::LatentSync16,
    }
}

/// Finds the files of `model`.
pub(super) fn model_files(model: &ModelChoice, settings: &HubSettings) -> Result<ModelFiles> {
    match model {
        ModelChoice::LatentSync16 => published_files(Package::LatentSync16, settings),
        ModelChoice::LatentSync15 => published_files(Package::LatentSync15, settings),
        ModelChoice::Demo => demo::files(),
        ModelChoice::Directory(directory) => directory_files(directory, settings),
    }
}

fn published_files(package: Package, settings: &HubSettings) -> Result<ModelFiles> {
    Ok(ModelFiles {
        unet: published_file(package, Role::Unet, settings)?.into(),
        unet_config: package.manifest().resolution.map(UnetConfigText::published),
        vae: published_file(package, Role::Vae, settings)?.into(),
        vae_config: published_file(package, Role::VaeConfig, settings)?.into(),
    })
}

fn directory_files(directory: &Path, settings: &HubSettings) -> Result<ModelFiles> {
    if directory.is_file() {
        let problem = "it is a file: give the directory that it is in".into();
        return Err(Error::File { path: directory.to_owned(), problem });
    }
    if !directory.is_dir() {
        return Err(Error::File {
            path: directory.to_owned(),
            problem:
                "there is no such directory; the published models are `latentsync-1.6` and `latentsync-1.5`, the built-in one is `demo`"
                    .into(),
        });
    }
    let unet = first_file(directory, &["", "checkpoints"], &["latentsync_unet"]).ok_or_else(|| {
        incomplete(directory, MissingPart::Unet, "`latentsync_unet.safetensors`, `.pt` or `.bin`")
    })?;
    let beside = [unet.with_file_name("unet_config.yaml"), directory.join("unet_config.yaml")];
    let unet_config = match beside.into_iter().find(|path| path.is_file()) {
        None => None,
        Some(path) => Some(UnetConfigText {
            yaml: fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?,
            origin: format!("`{}`", path.display()),
        }),
    };
    let (vae, vae_config) = directory_vae(directory, settings)?;
    Ok(ModelFiles { unet: unet.into(), unet_config, vae: vae.into(), vae_config: vae_config.into() })
}

/// The VAE beside the UNet, else the published one from the cache: the original takes it from there as well.
fn directory_vae(directory: &Path, settings: &HubSettings) -> Result<(PathBuf, PathBuf)> {
    const FOLDERS: [&str; 6] = [
        "vae",
        "sd-vae-ft-mse",
        "stabilityai/sd-vae-ft-mse",
        "checkpoints/vae",
        "checkpoints/sd-vae-ft-mse",
        "checkpoints/stabilityai/sd-vae-ft-mse",
    ];
    if let Some(vae) = first_file(directory, &FOLDERS, &["diffusion_pytorch_model"]) {
        let config = vae.with_file_name("config.json");
        return match config.is_file() {
            true => Ok((vae, config)),
            false => Err(Error::Incomplete {
                directory: directory.to_owned(),
                part: MissingPart::VaeConfig,
                looked_for: format!("`{}`", config.display()),
            }),
        };
    }
    let published = |role| published_file(Package::LatentSync16, role, settings);
    match (published(Role::Vae), published(Role::VaeConfig)) {
        (Ok(vae), Ok(config)) => {
            tracing::info!("`{}` has no VAE, taking the published one", directory.display());
            Ok((vae, config))
        }
        _ => Err(incomplete(
            directory,
            MissingPart::Vae,
            "`vae/diffusion_pytorch_model.safetensors` or `.bin`",
        )),
    }
}

/// Which faces the model knows, where those are not all.
pub(super) fn known_faces(model: &ModelChoice) -> Result<Option<ModelFile>> {
    match model {
        ModelChoice::LatentSync16 | ModelChoice::LatentSync15 => Ok(None),
        ModelChoice::Demo => demo::known_faces().map(Some),
        ModelChoice::Directory(directory) => {
            let path = directory.join(KNOWN_FACES);
            Ok(path.is_file().then(|| path.into()))
        }
    }
}

/// The Whisper whose features have `width` channels: `tiny` for 384, `small` for 768.
pub(super) fn whisper(model: &ModelChoice, width: usize, settings: &HubSettings) -> Result<ModelFile> {
    let published = |package| published_file(package, Role::Whisper, settings).map(ModelFile::from);
    let directory = match model {
        ModelChoice::LatentSync16 => return published(Package::LatentSync16),
        ModelChoice::LatentSync15 => return published(Package::LatentSync15),
        ModelChoice::Demo => return demo::whisper(),
        ModelChoice::Directory(directory) => directory,
    };
    let names = if width == 768 { ["small", "tiny"] } else { ["tiny", "small"] };
    if let Some(path) = first_file(directory, &["whisper", "checkpoints/whisper"], &names) {
        return Ok(path.into());
    }
    match (width, published(Package::LatentSync16)) {
        (384, Ok(path)) => {
            tracing::info!("`{}` has no Whisper, taking the published one", directory.display());
            Ok(path)
        }
        (384, Err(_)) => {
            Err(incomplete(directory, MissingPart::Whisper, "`whisper/tiny.pt` or `.safetensors`"))
        }
        // No published model has it, so that nothing can be pulled.
        _ => Err(Error::Incomplete {
            directory: directory.clone(),
            part: MissingPart::WhisperOfWidth(width),
            looked_for: format!("`whisper/{}.pt` or `.safetensors`", names[0]),
        }),
    }
}

/// The first that exists of `directory/FOLDER/STEM.FORMAT`.
fn first_file(directory: &Path, folders: &[&str], stems: &[&str]) -> Option<PathBuf> {
    let names =
        folders.iter().flat_map(|folder| stems.iter().map(move |stem| directory.join(folder).join(stem)));
    let files = names.flat_map(|name| WEIGHT_FORMATS.map(|format| name.with_added_extension(format)));
    files.into_iter().find(|path| path.is_file())
}

pub(super) fn incomplete(directory: &Path, part: MissingPart, looked_for: &str) -> Error {
    Error::Incomplete { directory: directory.to_owned(), part, looked_for: looked_for.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of the published sizes and nothing in them, where the hub's client puts them.
    fn pretend_pulled(package: Package, settings: &HubSettings) {
        for file in &package.manifest().files {
            let path = settings.pointer(file, &file.revision);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap().set_len(file.bytes).unwrap();
        }
    }

    #[test]
    fn without_a_name_it_is_the_published_model_that_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let settings =
            HubSettings { cache: directory.path().into(), ..HubSettings::from_vars(|_| None::<String>) };
        assert_eq!(published_here(&settings), ModelChoice::LatentSync16);
        pretend_pulled(Package::LatentSync15, &settings);
        assert_eq!(published_here(&settings), ModelChoice::LatentSync15);
        pretend_pulled(Package::LatentSync16, &settings);
        assert_eq!(published_here(&settings), ModelChoice::LatentSync16);
        // A download that broke off does not count.
        let manifest = Package::LatentSync16.manifest();
        let unet = settings
            .pointer(manifest.file(Role::Unet).unwrap(), &manifest.file(Role::Unet).unwrap().revision);
        fs::File::options().write(true).open(unet).unwrap().set_len(1).unwrap();
        assert_eq!(published_here(&settings), ModelChoice::LatentSync15);
    }
}
