//! Empties the data directory: what has outlived its time, and what must go to keep within the quota.
//!
//! The database forgets first, and says no where an unfinished job or a webhook still needs something: what is left
//! behind by a crash in between belongs to nobody, and goes next.

use std::sync::PoisonError;
use std::time::Duration;

use super::store::is_full;
use super::{Jobs, now};
use crate::server::Result;

/// How long things are kept, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// After a job has ended, and after a file was uploaded.
    pub time: Duration,
    /// Bytes of the whole directory.
    pub quota: u64,
    /// Not even a full directory loses what is younger: who asked for it has not had the time to use it.
    pub grace: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { time: Duration::from_secs(24 * 3600), quota: 50 << 30, grace: Duration::from_secs(60) }
    }
}

/// Removes what need not be kept. Unfinished jobs and what they read stay.
pub fn clean(jobs: &Jobs, keep: Keep) -> Result<()> {
    // The worker cleans, too, when it finds the disk full.
    let _alone = jobs.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
    let old = before(keep.time);
    for job in jobs.store.ended_before(old)? {
        forget_job(jobs, &job);
    }
    for upload in jobs.store.uploads_before(old)? {
        forget_upload(jobs, &upload);
    }
    remove_strays(jobs)?;
    if jobs.files.measure() > keep.quota {
        shrink(jobs, keep)?;
        jobs.files.measure();
    }
    Ok(())
}

/// Removes the oldest results and then the oldest uploads, until the quota is kept.
fn shrink(jobs: &Jobs, keep: Keep) -> Result<()> {
    let young = before(keep.grace);
    let mut over = jobs.files.measure().saturating_sub(keep.quota);
    for job in jobs.store.ended_before(young)? {
        if over == 0 {
            return Ok(());
        }
        let bytes = jobs.files.result_bytes(&job);
        if bytes > 0 && forget_job(jobs, &job) {
            tracing::warn!(job, "its result was removed: the data directory is full");
            over = over.saturating_sub(bytes);
        }
    }
    for upload in jobs.store.complete_uploads_before(young)? {
        if over == 0 {
            return Ok(());
        }
        let bytes = jobs.files.upload_bytes(&upload);
        if forget_upload(jobs, &upload) {
            over = over.saturating_sub(bytes);
        }
    }
    Ok(())
}

/// So long ago, in milliseconds since 1970.
fn before(time: Duration) -> i64 {
    now().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// A full disk may keep the database from forgetting; the file goes all the same, since that makes room.
pub fn forget_job(jobs: &Jobs, id: &str) -> bool {
    let removed = jobs.store.remove(id).unwrap_or_else(|error| {
        tracing::error!(job = id, "cannot be forgotten: {error}");
        is_full(&error)
    });
    if removed {
        jobs.files.remove_result(id);
    }
    removed
}

fn forget_upload(jobs: &Jobs, id: &str) -> bool {
    let removed = jobs.store.remove_upload(id).unwrap_or_else(|error| {
        tracing::error!("an upload cannot be forgotten: {error}");
        false
    });
    if removed {
        jobs.files.remove_upload(id);
    }
    removed
}

/// Removes files of this server's making that the database does not know.
fn remove_strays(jobs: &Jobs) -> Result<()> {
    // In this order: what comes into being meanwhile is in the database before it is on the disk.
    let (results, uploads) = (jobs.files.results(), jobs.files.uploads());
    let known = jobs.store.all()?;
    for id in results.iter().filter(|id| !known.contains(*id)) {
        jobs.files.remove_result(id);
    }
    let known = jobs.store.all_uploads()?;
    for id in uploads.iter().filter(|id| !known.contains(*id)) {
        jobs.files.remove_upload(id);
    }
    Ok(())
}
