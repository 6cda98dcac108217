//! The data directory: the database, uploads, results, and what a running job has downloaded.
//!
//! ```text
//! jobs.sqlite           what `store` keeps
//! lock                  held while a server uses the directory
//! uploads/ID            a complete upload; `ID.part` while it arrives, `ID.N` a part of a large one
//! results/ID/output.mp4 a finished job's result, with `report.json` beside it
//! work/ID/              a running job's downloads
//! ```
//!
//! A name in a path is always an identifier that this server has made.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Output;
use crate::error::{Error, Result};

/// The result's name, in its directory and in its URL.
pub const OUTPUT: &str = "output.mp4";
/// The result's first picture, where an API shows one.
pub const COVER: &str = "cover.jpg";
const REPORT: &str = "report.json";
/// The result while it is being written.
const UNFINISHED: &str = "unfinished.mp4";

/// The directory, held by this process alone.
pub struct DataDir {
    root: PathBuf,
    /// The system gives the lock back when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory where there is none and takes hold of it.
    pub fn open(root: &Path) -> Result<Self> {
        for directory in ["uploads", "results", "work"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(|source| Error::WriteFile { path, source })?;
        }
        let path = root.join("lock");
        let refuse = |source| Error::WriteFile { path: path.clone(), source };
        let lock = File::create(&path).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!("another server is using `{}`", root.display())));
            }
            Err(fs::TryLockError::Error(source)) => return Err(refuse(source)),
        }
        private(root)?;
        let directory = Self { root: root.to_path_buf(), _lock: lock };
        // Whatever was being downloaded when the last server ended is downloaded again.
        for entry in entries(&directory.root.join("work")) {
            remove(&entry);
        }
        Ok(directory)
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("jobs.sqlite")
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn upload(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    pub fn result(&self, job: &str) -> PathBuf {
        self.root.join("results").join(job).join(OUTPUT)
    }

    pub fn cover(&self, job: &str) -> PathBuf {
        self.root.join("results").join(job).join(COVER)
    }

    /// An empty directory for a job's downloads.
    pub fn begin_work(&self, job: &str) -> Result<PathBuf> {
        let path = self.root.join("work").join(job);
        remove(&path);
        create(&path)?;
        Ok(path)
    }

    pub fn end_work(&self, job: &str) {
        remove(&self.root.join("work").join(job));
    }

    /// Where a job writes its result until [`Self::publish`].
    pub fn unfinished_result(&self, job: &str) -> Result<PathBuf> {
        let directory = self.root.join("results").join(job);
        create(&directory)?;
        Ok(directory.join(UNFINISHED))
    }

    /// Makes an unfinished result the job's result. After a crash it is there as a whole or not at all, and
    /// its report with it.
    pub fn publish(&self, job: &str, report: Value) -> Result<Output> {
        let directory = self.root.join("results").join(job);
        let unfinished = directory.join(UNFINISHED);
        let result = directory.join(OUTPUT);
        let write = |path: &Path, work: &dyn Fn() -> io::Result<()>| {
            work().map_err(|source| Error::WriteFile { path: path.to_path_buf(), source })
        };
        let path = directory.join(REPORT);
        write(&path, &|| {
            let mut file = File::create(&path)?;
            file.write_all(report.to_string().as_bytes())?;
            file.sync_all()
        })?;
        write(&result, &|| {
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, &result)?;
            sync_directory(&directory)
        })?;
        let bytes = fs::metadata(&result).map_err(|source| Error::ReadFile { path: result, source })?.len();
        Ok(Output { bytes, report })
    }

    /// The result that a job had published before the server ended, if it came that far.
    pub fn published(&self, job: &str) -> Option<Output> {
        let directory = self.root.join("results").join(job);
        let bytes = fs::metadata(directory.join(OUTPUT)).ok()?.len();
        let report = fs::read(directory.join(REPORT)).ok()?;
        Some(Output { bytes, report: serde_json::from_slice(&report).ok()? })
    }

    pub fn remove_result(&self, job: &str) {
        remove(&self.root.join("results").join(job));
    }

    /// Removes an upload with everything that had arrived of it.
    pub fn remove_upload(&self, id: &str) {
        remove(&self.upload(id));
        self.remove_parts(id);
    }

    /// Removes the pieces that an upload was put together from.
    pub fn remove_parts(&self, id: &str) {
        let prefix = format!("{id}.");
        for entry in entries(&self.root.join("uploads")) {
            if entry.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
            {
                remove(&entry);
            }
        }
    }

    /// The identifiers of all results, known to the database or not.
    pub fn results(&self) -> Vec<String> {
        names(&self.root.join("results"))
    }

    /// The identifiers of all uploads and their parts.
    pub fn uploads(&self) -> Vec<String> {
        let mut ids: Vec<String> = names(&self.root.join("uploads"))
            .iter()
            .map(|name| name.split('.').next().unwrap_or_default().to_string())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Bytes of uploads, results and downloads.
    pub fn bytes(&self) -> u64 {
        ["uploads", "results", "work"].iter().map(|name| size(&self.root.join(name))).sum()
    }
}

/// Makes what was renamed in `path` outlive a power cut.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::WriteFile { path: path.to_path_buf(), source })
}

/// The directory holds keys and other people's faces: nobody else on this machine reads it.
#[cfg(unix)]
fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|source| Error::WriteFile { path: path.to_path_buf(), source })
}

#[cfg(not(unix))]
fn private(_: &Path) -> Result<()> {
    Ok(())
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove `{}`: {error}", path.display());
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_string());
    entries(directory).iter().filter_map(name).collect()
}

fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => entries(path).iter().map(|entry| size(entry)).sum(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_server() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDir::open(directory.path()).unwrap();
        let message = DataDir::open(directory.path()).err().unwrap().to_string();
        assert!(message.contains("another server"), "{message}");
        drop(first);
        assert!(DataDir::open(directory.path()).is_ok());
    }

    #[test]
    fn a_result_is_published_whole() {
        let directory = tempfile::tempdir().unwrap();
        let files = DataDir::open(directory.path()).unwrap();
        let unfinished = files.unfinished_result("a").unwrap();
        fs::write(&unfinished, b"12345").unwrap();
        assert_eq!(files.published("a"), None);
        let output = files.publish("a", serde_json::json!({"frames": 50, "fps": 25.0})).unwrap();
        assert_eq!((output.bytes, output.seconds()), (5, 2.0));
        assert_eq!(files.published("a"), Some(output));
        assert_eq!((files.bytes() > 5, files.results()), (true, vec!["a".to_string()]));
        files.remove_result("a");
        assert_eq!(files.published("a"), None);
    }

    #[test]
    fn an_upload_goes_with_its_parts() {
        let directory = tempfile::tempdir().unwrap();
        let files = DataDir::open(directory.path()).unwrap();
        for name in ["a", "a.1", "a.part", "ab", "ab.1"] {
            fs::write(files.upload(name), b"x").unwrap();
        }
        files.remove_upload("a");
        assert_eq!(files.uploads(), ["ab"]);
    }
}
