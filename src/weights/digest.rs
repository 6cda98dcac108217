//! SHA-256 of large files, and notes of it in the hub's cache, so that it is computed once.

use std::fs::{self, File};
use std::path::Path;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::system::digest::{HashError, hash_into, hex};

use super::{HubSettings, OnProgress, Progress};
use crate::weights::{Error, Result};

/// Hashes the whole of `path`; `name` is what the progress callback is told.
pub(super) fn sha256(path: &Path, name: &str, on_progress: OnProgress<'_>) -> Result<String> {
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let total = file.metadata().map_err(read_error)?.len();
    let mut hasher = Sha256::new();
    hash_into(&mut hasher, &mut file, |done| on_progress(Progress { file: name, done, total })).map_err(
        |error| match error {
            HashError::Read(source) => read_error(source),
            HashError::Stopped(error) => error,
        },
    )?;
    Ok(hex(&hasher.finalize()))
}

/// The hash of `path`, as noted or computed now and noted. A note is good for the size and the time of change
/// that the file had.
pub(super) fn remembered_sha256(
    path: &Path,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<String> {
    let noted = fs::read_to_string(settings.hash_note(path)).unwrap_or_default();
    if let Some((hash, noted_stamp)) = noted.trim().split_once(' ')
        && noted_stamp == stamp(path)?
        && hash.len() == 64
    {
        return Ok(hash.to_owned());
    }
    tracing::info!("computing the SHA-256 of `{}`, once", path.display());
    let hash = sha256(path, &path.display().to_string(), on_progress)?;
    remember_sha256(path, &hash, settings)?;
    Ok(hash)
}

/// Notes the hash of `path` for [`remembered_sha256`].
pub(super) fn remember_sha256(path: &Path, hash: &str, settings: &HubSettings) -> Result<()> {
    let (note, stamp) = (settings.hash_note(path), stamp(path)?);
    let written = note.parent().map_or(Ok(()), fs::create_dir_all);
    // Without the note the hash is computed again next time.
    if let Err(error) = written.and_then(|()| fs::write(&note, format!("{hash} {stamp}\n"))) {
        tracing::debug!("`{}` could not be written: {error}", note.display());
    }
    Ok(())
}

/// Size and time of change, in words that compare.
pub(super) fn stamp(path: &Path) -> Result<String> {
    let metadata = fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}", metadata.len(), changed.unwrap_or_default().as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system;

    #[test]
    fn a_hash_is_computed_once_and_again_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.pt");
        fs::write(&path, "abc").unwrap();
        let cache = tempfile::tempdir().unwrap();
        let settings = HubSettings::from_vars(|name| {
            (name == "HF_HUB_CACHE").then(|| cache.path().to_str().unwrap().to_owned())
        });
        let mut bytes_read = 0;
        let mut count = |progress: Progress<'_>| {
            bytes_read = bytes_read.max(progress.done);
            Ok(())
        };
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(remembered_sha256(&path, &settings, &mut count).unwrap(), abc);
        assert_eq!(bytes_read, 3);

        let mut refuse = |_: Progress<'_>| -> Result<()> { Err(system::Error::Interrupted.into()) };
        assert_eq!(remembered_sha256(&path, &settings, &mut refuse).unwrap(), abc, "read again");

        fs::write(&path, "abcd").unwrap();
        assert!(matches!(
            remembered_sha256(&path, &settings, &mut refuse),
            Err(Error::System(system::Error::Interrupted))
        ));
        assert_ne!(remembered_sha256(&path, &settings, &mut |_| Ok(())).unwrap(), abc);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
    }
}
