//! What is published where: one manifest per package under `models/`, built into the program.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::weights::{Error, Result};

/// A set of files that is downloaded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Package {
    /// 512-pixel faces.
    LatentSync16,
    /// 256-pixel faces.
    LatentSync15,
    /// dlib's shape predictor, for the detector that needs no licence.
    Dlib,
    /// InsightFace's two networks: non-commercial research only.
    InsightFace,
}

impl Package {
    /// Every package, in the order in which `models list` shows them.
    pub const ALL: [Package; 4] =
        [Package::LatentSync16, Package::LatentSync15, Package::Dlib, Package::InsightFace];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Package::LatentSync16 => "latentsync-1.6",
            Package::LatentSync15 => "latentsync-1.5",
            Package::Dlib => "dlib",
            Package::InsightFace => "insightface",
        }
    }

    /// What is known about the package's files.
    pub fn manifest(self) -> &'static Manifest {
        static MANIFESTS: LazyLock<[Manifest; 4]> = LazyLock::new(|| {
            [
                include_str!("../../models/latentsync-1.6.json"),
                include_str!("../../models/latentsync-1.5.json"),
                include_str!("../../models/dlib.json"),
                include_str!("../../models/insightface.json"),
            ]
            // Part of the program, not input: a test parses all four.
            .map(|text| serde_json::from_str(text).expect("a built-in manifest is valid JSON"))
        });
        match self {
            Package::LatentSync16 => &MANIFESTS[0],
            Package::LatentSync15 => &MANIFESTS[1],
            Package::Dlib => &MANIFESTS[2],
            Package::InsightFace => &MANIFESTS[3],
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Package {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Package::ALL.into_iter().find(|package| package.name() == name).ok_or_else(|| match name {
            "demo" => Error::DemoIsBuiltIn,
            _ => Error::UnknownPackage {
                name: name.to_owned(),
                known: Package::ALL.map(Package::name).join(", "),
            },
        })
    }
}

/// One file of `models/*.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub title: String,
    /// Side of the square faces in pixels, of a LatentSync model.
    pub resolution: Option<usize>,
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// Parses a manifest of the same form as the built-in ones.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(Error::Manifest)
    }

    /// The file that plays `role`, where the package has one.
    pub fn file(&self, role: Role) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.role == role)
    }
}

/// One published file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    pub role: Role,
    /// What the file is for, in words.
    pub purpose: String,
    /// `owner/name` on the hub.
    pub repository: String,
    /// A commit, or a branch where the hash alone pins the content.
    pub revision: String,
    /// Path inside the repository.
    pub path: String,
    pub bytes: u64,
    /// Hexadecimal. Absent for a small text file, whose size is checked alone.
    pub sha256: Option<String>,
    pub licence: String,
}

/// What a file is to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Unet,
    Whisper,
    Vae,
    VaeConfig,
    FaceDetector,
    FaceLandmarks,
    ShapePredictor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_parse_and_are_complete() {
        for package in Package::ALL {
            let manifest = package.manifest();
            assert_eq!(manifest.name, package.name());
            assert_eq!(package.name().parse::<Package>().unwrap(), package);
            for file in &manifest.files {
                assert_eq!(file.repository.matches('/').count(), 1, "{}", file.repository);
                let pinned = file.revision.len() == 40 || file.sha256.is_some();
                assert!(pinned, "{} is neither pinned by commit nor by hash", file.path);
                if let Some(hash) = &file.sha256 {
                    assert_eq!(hash.len(), 64);
                    assert!(hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
                }
            }
        }
        for package in [Package::LatentSync15, Package::LatentSync16] {
            for role in [Role::Unet, Role::Whisper, Role::Vae, Role::VaeConfig] {
                assert!(package.manifest().file(role).is_some(), "{package} lacks {role:?}");
            }
        }
    }
}
