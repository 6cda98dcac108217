//! The data directory: the database, uploads, results, and what a running job has downloaded.
//!
//! ```text
//! jobs.sqlite           what `store` keeps
//! lock                  held while a server uses the directory
//! uploads/ID            a complete upload; `ID.ATTEMPT` while it arrives, `ID.N` a part of a large one
//! results/ID/output.mp4 a finished job's result, with `report.json` beside it
//! work/ID/              a running job's downloads
//! ```
//!
//! A name in a path is always an identifier that this server has made. Other files in the directory are nobody's of
//! this server's, and stay.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::Output;
use crate::server::{Error, Result};
use crate::system;
use crate::system::write_error;

/// The result's name, in its directory and in its URL.
pub const OUTPUT: &str = "output.mp4";
/// The result's first picture, where an API shows one.
pub const COVER: &str = "cover.jpg";
const REPORT: &str = "report.json";
const DATABASE: &str = "jobs.sqlite";
/// The result while it is being written.
const UNFINISHED: &str = "unfinished.mp4";

/// The directory, held by this process alone.
pub struct DataDir {
    root: PathBuf,
    /// The system gives the lock back when the process ends, however it ends.
    _lock: File,
    /// Bytes of uploads, results and downloads: as they were measured last, and what has arrived since.
    used: AtomicU64,
}

impl DataDir {
    /// Creates the directory where there is none and takes hold of it. A directory that somebody uses for something
    /// else is refused: what is in its `results` or `work` is not this server's to clean.
    pub fn open(root: &Path) -> Result<Self> {
        if entries(root).iter().any(|path| !is_nobodys(path)) && !root.join(DATABASE).is_file() {
            return Err(Error::NotADataDir { path: root.to_path_buf() });
        }
        create(root)?;
        // What makes the directory a server's, also if that ends before it has a database.
        let path = root.join(DATABASE);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| system::Error::WriteFile { path, source })?;
        for directory in ["uploads", "results", "work"] {
            create(&root.join(directory))?;
        }
        let path = root.join("lock");
        let refuse = |source| system::Error::WriteFile { path: path.clone(), source };
        let lock = File::create(&path).map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::DataDirInUse { path: root.to_path_buf() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(refuse(source).into()),
        }
        private(root)?;
        let directory = Self { root: root.to_path_buf(), _lock: lock, used: AtomicU64::new(0) };
        // Whatever was being downloaded when the last server ended is downloaded again.
        for entry in entries(&directory.root.join("work")) {
            remove(&entry);
        }
        directory.measure();
        Ok(directory)
    }

    pub fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
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
        self.remove_counted(&self.root.join("work").join(job));
    }

    /// Where a job writes its result until [`Self::publish`].
    pub fn unfinished_result(&self, job: &str) -> Result<PathBuf> {
        let directory = self.root.join("results").join(job);
        create(&directory)?;
        sync_directory(&self.root.join("results")).map_err(|source| write_error(&directory, source))?;
        Ok(directory.join(UNFINISHED))
    }

    /// Makes an unfinished result the job's result. After a crash it is there as a whole or not at all, and
    /// its report with it.
    pub fn publish(&self, job: &str, report: Value) -> Result<Output> {
        let directory = self.root.join("results").join(job);
        let unfinished = directory.join(UNFINISHED);
        let result = directory.join(OUTPUT);
        let write = |path: &Path, work: &dyn Fn() -> io::Result<()>| {
            work().map_err(|source| write_error(path, source))
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
        let bytes =
            fs::metadata(&result).map_err(|source| system::Error::ReadFile { path: result, source })?.len();
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
        self.remove_counted(&self.root.join("results").join(job));
    }

    /// Removes an upload with everything that had arrived of it.
    pub fn remove_upload(&self, id: &str) {
        self.remove_counted(&self.upload(id));
        self.remove_parts(id);
    }

    fn remove_counted(&self, path: &Path) {
        let bytes = size(path);
        remove(path);
        self.give_back(bytes);
    }

    pub fn result_bytes(&self, job: &str) -> u64 {
        size(&self.root.join("results").join(job))
    }

    pub fn upload_bytes(&self, id: &str) -> u64 {
        size(&self.upload(id))
    }

    /// Removes the pieces that an upload was put together from.
    pub fn remove_parts(&self, id: &str) {
        let prefix = format!("{id}.");
        for entry in entries(&self.root.join("uploads")) {
            if entry.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
            {
                self.remove_counted(&entry);
            }
        }
    }

    /// The identifiers of all results, known to the database or not.
    pub fn results(&self) -> Vec<String> {
        let mut ids = names(&self.root.join("results"));
        ids.retain(|id| is_id(id));
        ids
    }

    /// The identifiers of all uploads and their parts.
    pub fn uploads(&self) -> Vec<String> {
        let mut ids: Vec<String> = names(&self.root.join("uploads"))
            .iter()
            .map(|name| name.split('.').next().unwrap_or_default().to_string())
            .collect();
        ids.retain(|id| is_id(id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Adds up the bytes of uploads, results and downloads.
    pub fn measure(&self) -> u64 {
        let bytes = ["uploads", "results", "work"].iter().map(|name| size(&self.root.join(name))).sum();
        self.used.store(bytes, Ordering::Relaxed);
        bytes
    }

    /// Counts bytes that arrive; `false`, and does not, if they would be more than `quota` in all.
    pub fn admit(&self, bytes: u64, quota: u64) -> bool {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if used > quota {
            self.give_back(bytes);
        }
        used <= quota
    }

    /// Bytes that were admitted are gone again.
    pub fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It has been measured anew meanwhile, perhaps.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// What a fresh disk, or a directory that is kept somewhere, may hold.
fn is_nobodys(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "lost+found" || name.starts_with('.')
}

/// Only what is named as this server names things is its own.
fn is_id(name: &str) -> bool {
    uuid::Uuid::try_parse(name).is_ok_and(|id| id.to_string() == name)
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
    Ok(fs::create_dir_all(path).map_err(|source| write_error(path, source))?)
}

/// The directory holds keys and other people's faces: nobody else on this machine reads it.
#[cfg(unix)]
fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|source| system::Error::WriteFile { path: path.to_path_buf(), source })?)
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
        assert!(files.measure() > 5 && files.result_bytes("a") > 5);
        files.remove_result("a");
        assert_eq!(files.published("a"), None);
    }

    #[test]
    fn an_upload_goes_with_its_parts() {
        let directory = tempfile::tempdir().unwrap();
        let files = DataDir::open(directory.path()).unwrap();
        let [a, b] = ["6fa459ea-ee8a-4ca4-894e-db77e160355e", "16fd2706-8baf-433b-82eb-8c7fada847da"];
        for name in [a, &format!("{a}.1"), &format!("{a}.2b"), b, &format!("{b}.1"), "notes.txt"] {
            fs::write(files.upload(name), b"x").unwrap();
        }
        files.remove_upload(a);
        assert_eq!(files.uploads(), [b]);
    }

    #[test]
    fn a_directory_of_somebody_else_s_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("results/precious.txt");
        fs::create_dir(precious.parent().unwrap()).unwrap();
        fs::write(&precious, b"x").unwrap();
        let message = DataDir::open(directory.path()).err().unwrap().to_string();
        assert!(message.contains("neither empty nor"), "{message}");
        assert!(precious.is_file() && !directory.path().join("lock").exists());
    }

    #[test]
    fn what_arrives_counts_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let files = DataDir::open(directory.path()).unwrap();
        assert!(files.admit(6, 10) && !files.admit(6, 10));
        files.give_back(6);
        assert!(files.admit(10, 10));
        assert_eq!(files.measure(), 0);
    }
}
