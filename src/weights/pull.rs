//! `models pull`: downloads through hf-hub into its cache, checked by size and hash.
//!
//! hf-hub 1.0 always starts a file from its first byte (huggingface/hf-hub#196). A checkpoint is 5 GB, so here
//! its byte stream goes into `blobs/HASH.incomplete`, which the next attempt, or the next run, continues.

use std::cell::Cell;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::inventory::{FileState, located, remembered_state, wrong_hash, wrong_size};
use super::partial::Partial;
use super::{
    HubSettings, InsightFaceLicence, LocatedFile, Manifest, ManifestFile, OnProgress, Package, Progress,
    digest,
};
use crate::system::machine;
use crate::weights::{DownloadCause, Error, Result};
use futures_util::StreamExt;
use hf_hub::repository::{HFRepository, RepoTypeModel};
use hf_hub::{HFClient, HFError};

/// How often the progress callback runs, so that an interruption is noticed, even when no bytes arrive.
const TICK: Duration = Duration::from_millis(200);
/// A server that is silent for so long counts as a broken connection.
const SILENCE: Duration = Duration::from_secs(60);
/// Attempts that bring no byte at all before giving up.
const FRUITLESS_ATTEMPTS: u32 = 3;

/// Fetches what is missing of a package. A file that is there already is hashed, unless it is unchanged since
/// that was last done: a damaged one is replaced.
/// [`Package::InsightFace`] needs [`InsightFaceLicence::Accepted`]; the others ignore the value.
pub fn pull(
    package: Package,
    licence: InsightFaceLicence,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<Vec<LocatedFile>> {
    if package == Package::InsightFace && licence == InsightFaceLicence::NotAccepted {
        return Err(Error::LicenceNotAccepted);
    }
    pull_manifest(package.manifest(), settings, on_progress)
}

/// [`pull`] for a manifest that is not built in.
pub fn pull_manifest(
    manifest: &Manifest,
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<Vec<LocatedFile>> {
    let mut missing = Vec::new();
    let mut bytes = 0;
    for file in &manifest.files {
        match remembered_state(file, settings, on_progress)? {
            FileState::Present { .. } => continue,
            FileState::Corrupt { path, reason } if path.starts_with(&settings.cache) => {
                tracing::warn!("`{}` is damaged ({reason}) and is fetched again", path.display());
                remove_from_cache(&path)?;
                bytes += file.bytes;
            }
            FileState::Partial { bytes: here } => bytes += file.bytes.saturating_sub(here),
            FileState::Missing | FileState::Corrupt { .. } => bytes += file.bytes,
        }
        missing.push(file);
    }
    if !missing.is_empty() {
        if settings.offline {
            return Err(Error::Offline { model: manifest.name.clone() });
        }
        check_space(&settings.cache, bytes)?;
        fetch_all(manifest, &missing, settings, on_progress)?;
    }
    manifest.files.iter().map(|file| located(manifest, file, settings)).collect()
}

/// The link and what it points to.
fn remove_from_cache(path: &Path) -> Result<()> {
    let blob = path.canonicalize();
    let remove =
        |path: &Path| fs::remove_file(path).map_err(|source| Error::Write { path: path.to_owned(), source });
    remove(path)?;
    match blob {
        Ok(blob) if blob != path && blob.exists() => remove(&blob),
        _ => Ok(()),
    }
}

/// Refuses a download that cannot fit, before it starts.
fn check_space(cache: &Path, needed: u64) -> Result<()> {
    fs::create_dir_all(cache).map_err(|source| Error::Write { path: cache.to_owned(), source })?;
    match machine::free_space(cache) {
        Some(free) if free < needed => Err(Error::DiskFull { path: cache.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

fn fetch_all(
    manifest: &Manifest,
    files: &[&ManifestFile],
    settings: &HubSettings,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Write { path: settings.cache.clone(), source })?;
        for file in files {
            runtime.block_on(Download::new(manifest, file, settings)?.run(on_progress))?;
        }
        Ok(())
    };
    // A thread of its own, since inside another runtime both blocking and dropping this one would panic.
    std::thread::scope(|scope| {
        let done = scope.spawn(work).join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One file on its way.
struct Download<'a> {
    manifest: &'a Manifest,
    file: &'a ManifestFile,
    settings: &'a HubSettings,
    hub: HFRepository<RepoTypeModel>,
    /// When the progress callback last ran.
    reported: Cell<Option<Instant>>,
}

/// How an attempt to fetch the rest of a file ended.
enum Attempt {
    Complete,
    /// The connection broke; what arrived is kept.
    Broken(HFError),
    /// The server sent more than was asked for: it knows no ranges.
    NoRanges,
}

impl<'a> Download<'a> {
    fn new(manifest: &'a Manifest, file: &'a ManifestFile, settings: &'a HubSettings) -> Result<Self> {
        let mut client = HFClient::builder().cache_dir(&settings.cache);
        if let Some(endpoint) = &settings.endpoint {
            client = client.endpoint(endpoint);
        }
        if let Some(token) = &settings.token {
            client = client.token(token);
        }
        let client = client.build().map_err(|source| Error::Download {
            repository: file.repository.clone(),
            file: file.path.clone(),
            cause: DownloadCause::BadEndpoint.into(),
            source: source.into(),
        })?;
        let (owner, name) = file.repository.split_once('/').unwrap_or(("", &file.repository));
        Ok(Self { manifest, file, settings, hub: client.model(owner, name), reported: Cell::new(None) })
    }

    async fn run(&self, on_progress: OnProgress<'_>) -> Result<()> {
        let Some(sha256) = &self.file.sha256 else {
            return self.whole(on_progress).await;
        };
        let blob = self.settings.blob(self.file, sha256);
        let lock_path = self.settings.lock(self.file, sha256);
        let lock = create(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::DownloadBusy { file: self.file.path.clone() });
            }
            // A file system without locks: two downloads at once are then the user's to avoid.
            Err(TryLockError::Error(error)) => tracing::debug!("`{}`: {error}", lock_path.display()),
        }
        let incomplete = self.settings.incomplete(self.file, sha256);
        let mut partial = Partial::open(&incomplete, self.file, on_progress)?;
        let continued = partial.have > 0;
        let got = self.collect(&mut partial, on_progress).await?;
        if got != *sha256 {
            self.discard(&incomplete)?;
            if !continued {
                return Err(self.damaged(wrong_hash(sha256, &got)));
            }
            // The part of an earlier run may be to blame, which was never hashed as a whole.
            tracing::warn!("the continued download of `{}` is damaged, starting over", self.file.path);
            let mut partial = Partial::open(&incomplete, self.file, on_progress)?;
            let got = self.collect(&mut partial, on_progress).await?;
            if got != *sha256 {
                self.discard(&incomplete)?;
                return Err(self.damaged(wrong_hash(sha256, &got)));
            }
        }
        fs::rename(&incomplete, &blob).map_err(|source| Error::Write { path: blob.clone(), source })?;
        digest::remember_sha256(&blob, sha256, self.settings)?;
        self.link(&blob).await
    }

    /// A small file without a published hash: hf-hub's own download.
    async fn whole(&self, on_progress: OnProgress<'_>) -> Result<()> {
        let download =
            self.hub.download_file().filename(&self.file.path).revision(&self.file.revision).send();
        let path = self.watch(download, 0, on_progress).await?.map_err(|error| self.failed(error))?;
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if bytes != self.file.bytes {
            remove_from_cache(&path)?;
            return Err(self.damaged(wrong_size(self.file, bytes)));
        }
        on_progress(self.progress(bytes))
    }

    /// Fetches until the size is reached, however often the connection breaks, and returns the hash.
    async fn collect(&self, partial: &mut Partial, on_progress: OnProgress<'_>) -> Result<String> {
        let mut fruitless = 0;
        while partial.have < self.file.bytes {
            let before = partial.have;
            let broken = match self.attempt(partial, on_progress).await? {
                Attempt::Complete => continue,
                Attempt::NoRanges => {
                    partial.restart()?;
                    HFError::Other("the server cannot continue a download".into())
                }
                Attempt::Broken(error) => error,
            };
            fruitless = if partial.have > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_ATTEMPTS {
                return Err(self.failed(broken));
            }
            tracing::warn!("`{}` broke off at {} bytes: {broken}", self.file.path, partial.have);
        }
        on_progress(self.progress(partial.have))?;
        partial.finish()
    }

    /// One connection, from the first byte that is missing.
    async fn attempt(&self, partial: &mut Partial, on_progress: OnProgress<'_>) -> Result<Attempt> {
        let total = self.file.bytes;
        let resumed = partial.have > 0;
        let range = resumed.then_some(partial.have..total);
        let request = self
            .hub
            .download_file_stream()
            .filename(&self.file.path)
            .revision(&self.file.revision)
            .maybe_range(range)
            .send();
        // hf-hub has already repeated a request that failed for a passing reason.
        let (_, mut stream) =
            self.watch(request, partial.have, on_progress).await?.map_err(|error| self.failed(error))?;
        loop {
            match self.watch(stream.next(), partial.have, on_progress).await? {
                Some(Ok(chunk)) if partial.have + chunk.len() as u64 > total => {
                    if resumed {
                        return Ok(Attempt::NoRanges);
                    }
                    self.discard(&partial.path)?;
                    return Err(self.damaged(format!("more than {total} bytes")));
                }
                Some(Ok(chunk)) => partial.append(&chunk, total)?,
                Some(Err(error)) => return Ok(Attempt::Broken(error)),
                None if partial.have == total => return Ok(Attempt::Complete),
                None => return Ok(Attempt::Broken(HFError::Other("the server stopped early".into()))),
            }
        }
    }

    /// Waits for `future`, running the progress callback all the while.
    async fn watch<F: Future>(&self, future: F, have: u64, on_progress: OnProgress<'_>) -> Result<F::Output> {
        let mut future = pin!(future);
        let started = Instant::now();
        loop {
            if self.reported.get().is_none_or(|at| at.elapsed() >= TICK) {
                self.reported.set(Some(Instant::now()));
                on_progress(self.progress(have))?;
            }
            if let Ok(output) = tokio::time::timeout(TICK, &mut future).await {
                return Ok(output);
            }
            if started.elapsed() > SILENCE {
                let silent = format!("no answer for {} seconds", SILENCE.as_secs());
                return Err(self.failed(HFError::Other(silent)));
            }
        }
    }

    fn progress(&self, done: u64) -> Progress<'_> {
        Progress { file: &self.file.path, done, total: self.file.bytes }
    }

    /// Puts the file where the cache's layout says: a link, named as in the repository, to the blob.
    async fn link(&self, blob: &Path) -> Result<()> {
        let revision = &self.file.revision;
        let is_commit = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
        let commit = if is_commit {
            revision.clone()
        } else {
            // A branch's commit is for other programs' sake: this one finds the blob by its hash.
            match self.hub.info().revision(revision).send().await.map(|info| info.sha) {
                Ok(Some(commit)) => {
                    let reference = self.settings.repository(self.file).join("refs").join(revision);
                    write(&reference, &commit)?;
                    commit
                }
                _ => return Ok(()),
            }
        };
        let pointer = self.settings.pointer(self.file, &commit);
        let ups = Path::new(&self.file.path).components().count() + 1;
        let mut target = std::path::PathBuf::from("../".repeat(ups)).join("blobs");
        target.extend(blob.file_name());
        create_parent(&pointer)?;
        // Left behind where the blob is gone, or replaced.
        let _ = fs::remove_file(&pointer);
        link_file(&target, blob, &pointer).map_err(|source| Error::Write { path: pointer, source })
    }

    fn discard(&self, incomplete: &Path) -> Result<()> {
        fs::remove_file(incomplete).map_err(|source| Error::Write { path: incomplete.to_owned(), source })
    }

    fn damaged(&self, problem: String) -> Error {
        Error::DamagedDownload {
            repository: self.file.repository.clone(),
            file: self.file.path.clone(),
            problem,
            model: self.manifest.name.clone(),
        }
    }

    fn failed(&self, source: HFError) -> Error {
        let endpoint = || self.settings.endpoint.as_deref().unwrap_or("https://huggingface.co").to_owned();
        let cause = match &source {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => DownloadCause::AccessDenied,
            HFError::EntryNotFound { .. }
            | HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. } => DownloadCause::NotFound { endpoint: endpoint() },
            HFError::RateLimited { .. } => DownloadCause::RateLimited,
            _ => DownloadCause::Connection { endpoint: endpoint(), model: self.manifest.name.clone() },
        };
        Error::Download {
            repository: self.file.repository.clone(),
            file: self.file.path.clone(),
            cause: cause.into(),
            source: source.into(),
        }
    }
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).map_err(|source| Error::Write { path: parent.to_owned(), source })
}

fn create(path: &Path) -> Result<File> {
    create_parent(path)?;
    File::create(path).map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<()> {
    create_parent(path)?;
    fs::write(path, text).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(unix)]
fn link_file(target: &Path, _blob: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

/// Links need a privilege elsewhere; hf-hub copies there as well.
#[cfg(not(unix))]
fn link_file(_target: &Path, blob: &Path, pointer: &Path) -> std::io::Result<()> {
    fs::copy(blob, pointer).map(drop)
}
