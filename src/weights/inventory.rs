//! `models list`, `path` and `verify`: what is on this machine and whether it is intact.

use std::fs;
use std::path::PathBuf;

use super::locate::find;
use super::{HubSettings, Manifest, ManifestFile, OnProgress, Package, digest};
use crate::weights::{Error, Result};

/// One file of a package on this machine.
#[derive(Debug, Clone)]
pub struct FileStatus {
    pub file: ManifestFile,
    pub state: FileState,
}

/// What is there of a file. [`list`] judges by size, [`verify`] by hash as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    Missing,
    /// An interrupted download, which `pull` continues.
    Partial {
        bytes: u64,
    },
    Present {
        path: PathBuf,
    },
    /// Another size or another hash than published; `pull` replaces it.
    Corrupt {
        path: PathBuf,
        reason: String,
    },
}

/// A package and its files.
#[derive(Debug, Clone)]
pub struct PackageStatus {
    pub package: Package,
    pub files: Vec<FileStatus>,
}

impl PackageStatus {
    /// Every file is there and not known to be corrupt.
    pub fn complete(&self) -> bool {
        self.files.iter().all(|status| matches!(status.state, FileState::Present { .. }))
    }

    /// Bytes of the whole package.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|status| status.file.bytes).sum()
    }

    /// Bytes of it that are here.
    pub fn bytes_here(&self) -> u64 {
        let here = self.files.iter().map(|status| match &status.state {
            FileState::Present { .. } => status.file.bytes,
            FileState::Partial { bytes } => *bytes,
            FileState::Missing | FileState::Corrupt { .. } => 0,
        });
        here.sum()
    }
}

/// A published file and where it lies.
#[derive(Debug, Clone)]
pub struct LocatedFile {
    pub file: ManifestFile,
    pub path: PathBuf,
}

/// Every package, judged by sizes: quick, and no network.
pub fn list(settings: &HubSettings) -> Vec<PackageStatus> {
    let status = |package: Package| {
        let files = package
            .manifest()
            .files
            .iter()
            .map(|file| FileStatus { file: file.clone(), state: state(file, settings) });
        PackageStatus { package, files: files.collect() }
    };
    Package::ALL.into_iter().map(status).collect()
}

/// Where the files of a package lie. A missing one is an error whose hint is the command that fetches it.
pub fn path(package: Package, settings: &HubSettings) -> Result<Vec<LocatedFile>> {
    let manifest = package.manifest();
    manifest.files.iter().map(|file| located(manifest, file, settings)).collect()
}

/// Size and SHA-256 of every file of a package. An error is a failure to read or an interruption; a bad file
/// is a [`FileState::Corrupt`].
pub fn verify(
    package: Package,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<PackageStatus> {
    let files = verify_manifest(package.manifest(), settings, on_progress)?;
    Ok(PackageStatus { package, files })
}

/// [`verify`] for a manifest that is not built in.
pub fn verify_manifest(
    manifest: &Manifest,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<Vec<FileStatus>> {
    let mut files = Vec::new();
    for file in &manifest.files {
        files.push(FileStatus { state: verified_state(file, settings, on_progress)?, file: file.clone() });
    }
    Ok(files)
}

/// One file of a package, of the published size, or an error that says how to get it.
pub(super) fn located(
    manifest: &Manifest,
    file: &ManifestFile,
    settings: &HubSettings,
) -> Result<LocatedFile> {
    match state(file, settings) {
        FileState::Present { path } => Ok(LocatedFile { file: file.clone(), path }),
        FileState::Corrupt { path, .. } => Err(Error::Truncated {
            bytes: fs::metadata(&path).map_or(0, |metadata| metadata.len()),
            path,
            expected: file.bytes.to_string(),
            model: Some(manifest.name.clone()),
        }),
        FileState::Missing | FileState::Partial { .. } => Err(Error::NotPulled {
            model: manifest.name.clone(),
            file: file.path.clone(),
            cache: settings.cache.clone(),
        }),
    }
}

/// By size alone.
fn state(file: &ManifestFile, settings: &HubSettings) -> FileState {
    let Some(path) = find(file, settings) else {
        let incomplete = file.sha256.as_ref().map(|hash| settings.incomplete(file, hash));
        return match incomplete.and_then(|path| fs::metadata(path).ok()) {
            Some(metadata) => FileState::Partial { bytes: metadata.len() },
            None => FileState::Missing,
        };
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() == file.bytes => FileState::Present { path },
        Ok(metadata) => FileState::Corrupt { reason: wrong_size(file, metadata.len()), path },
        Err(error) => FileState::Corrupt { reason: error.to_string(), path },
    }
}

/// By size and hash.
fn verified_state(
    file: &ManifestFile,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<FileState> {
    match (state(file, settings), &file.sha256) {
        (FileState::Present { path }, Some(expected)) => {
            let got = digest::sha256(&path, &file.path, on_progress)?;
            // So that `pull` knows of the damage; looking at Debian's file is no reason to make a cache.
            if settings.cache.is_dir() {
                digest::remember_sha256(&path, &got, settings)?;
            }
            Ok(judged(path, expected, &got))
        }
        (state, _) => Ok(state),
    }
}

/// By size, and by the hash that was noted when the file was last read; read now if there is no such note.
pub(super) fn remembered_state(
    file: &ManifestFile,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<FileState> {
    match (state(file, settings), &file.sha256) {
        (FileState::Present { path }, Some(expected)) => {
            let got = digest::remembered_sha256(&path, settings, on_progress)?;
            Ok(judged(path, expected, &got))
        }
        (state, _) => Ok(state),
    }
}

fn judged(path: PathBuf, expected: &str, got: &str) -> FileState {
    match got == expected {
        true => FileState::Present { path },
        false => FileState::Corrupt { path, reason: wrong_hash(expected, got) },
    }
}

pub(super) fn wrong_size(file: &ManifestFile, bytes: u64) -> String {
    format!("{bytes} bytes, expected {}", file.bytes)
}

pub(super) fn wrong_hash(expected: &str, got: &str) -> String {
    format!("SHA-256 {got}, expected {expected}")
}
