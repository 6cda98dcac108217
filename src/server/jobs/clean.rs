//! Cleans the data directory: deletes what has expired, and the oldest files beyond the quota.
//!
//! The record in the database is deleted first, unless an unfinished job or a pending webhook still needs it.
//! Files that a crash leaves behind in between have no record and are deleted the next time.

use std::sync::PoisonError;
use std::time::Duration;

use super::store::is_full;
use super::{Jobs, now};
use crate::server::Result;

/// Retention rules.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Retention time after the end of a job or of an upload.
    pub time: Duration,
    /// Bytes of the whole directory.
    pub quota: u64,
    /// Younger files are kept even beyond the quota, so that clients have time to use them.
    pub grace: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { time: Duration::from_secs(24 * 3600), quota: 50 << 30, grace: Duration::from_secs(60) }
    }
}

/// Applies the retention rules. Unfinished jobs and their inputs are kept.
pub fn clean(jobs: &Jobs, keep: Keep) -> Result<()> {
    // The worker also cleans, when the disk is full.
    let _guard = jobs.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
    let old = before(keep.time);
    for job in jobs.store.ended_before(old)? {
        delete_job(jobs, &job);
    }
    for upload in jobs.store.uploads_before(old)? {
        delete_upload(jobs, &upload);
    }
    delete_orphans(jobs)?;
    if jobs.files.measure() > keep.quota {
        shrink(jobs, keep)?;
        jobs.files.measure();
    }
    Ok(())
}

/// Deletes the oldest results, then the oldest uploads, until the directory is within the quota.
fn shrink(jobs: &Jobs, keep: Keep) -> Result<()> {
    let young = before(keep.grace);
    let mut over = jobs.files.measure().saturating_sub(keep.quota);
    for job in jobs.store.ended_before(young)? {
        if over == 0 {
            return Ok(());
        }
        let bytes = jobs.files.result_bytes(&job);
        if bytes > 0 && delete_job(jobs, &job) {
            tracing::warn!(job, "its result was deleted: the data directory is full");
            over = over.saturating_sub(bytes);
        }
    }
    for upload in jobs.store.complete_uploads_before(young)? {
        if over == 0 {
            return Ok(());
        }
        let bytes = jobs.files.upload_bytes(&upload);
        if delete_upload(jobs, &upload) {
            over = over.saturating_sub(bytes);
        }
    }
    Ok(())
}

/// The time `time` ago, in milliseconds since 1970.
fn before(time: Duration) -> i64 {
    now().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Deletes a job and its result; `false` if it is still needed. If the disk is so full that the record cannot
/// be deleted, the files are deleted nevertheless to free space.
pub fn delete_job(jobs: &Jobs, id: &str) -> bool {
    let removed = jobs.store.remove(id).unwrap_or_else(|error| {
        tracing::error!(job = id, "cannot be deleted: {error}");
        is_full(&error)
    });
    if removed {
        jobs.files.remove_result(id);
    }
    removed
}

fn delete_upload(jobs: &Jobs, id: &str) -> bool {
    let removed = jobs.store.remove_upload(id).unwrap_or_else(|error| {
        tracing::error!("an upload cannot be deleted: {error}");
        false
    });
    if removed {
        jobs.files.remove_upload(id);
    }
    removed
}

/// Deletes results and uploads that have no record.
fn delete_orphans(jobs: &Jobs) -> Result<()> {
    // In this order: a record is written before its files.
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
