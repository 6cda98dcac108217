//! Empties the data directory: what has outlived its time, and what must go to keep within the quota.
//! The database forgets first: what is left behind by a crash in between belongs to nobody, and goes next.

use std::collections::HashSet;
use std::time::Duration;

use super::inputs::own_id;
use super::{Jobs, now};
use crate::error::Result;
use crate::request::Request;

/// A file without an entry in the database may be about to get one.
const YOUNG: i64 = 60_000;

/// How long things are kept, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// After a job has ended, and after a file was uploaded.
    pub time: Duration,
    /// Bytes of the whole directory.
    pub quota: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { time: Duration::from_secs(24 * 3600), quota: 50 << 30 }
    }
}

/// Removes what need not be kept. Unfinished jobs and what they read stay.
pub fn clean(jobs: &Jobs, keep: Keep) -> Result<()> {
    let old = now() - keep.time.as_millis() as i64;
    for job in jobs.store.ended_before(old)? {
        forget_job(jobs, &job.id)?;
    }
    let in_use = in_use(jobs)?;
    for upload in jobs.store.uploads_before(old)? {
        if !in_use.contains(&upload.id) {
            forget_upload(jobs, &upload.id)?;
        }
    }
    remove_strays(jobs)?;
    if jobs.files.bytes() > keep.quota {
        shrink(jobs, keep.quota, &in_use)?;
    }
    Ok(())
}

/// Removes the oldest results and then the oldest uploads, until the quota is kept.
fn shrink(jobs: &Jobs, quota: u64, in_use: &HashSet<String>) -> Result<()> {
    for job in jobs.store.ended_before(now())? {
        if jobs.files.bytes() <= quota {
            return Ok(());
        }
        if job.output.is_some() && !in_use.contains(&job.id) {
            tracing::warn!(job = job.id, "its result was removed: the data directory is full");
            forget_job(jobs, &job.id)?;
        }
    }
    for upload in jobs.store.uploads_before(now() - YOUNG)? {
        if jobs.files.bytes() <= quota {
            return Ok(());
        }
        if !in_use.contains(&upload.id) {
            forget_upload(jobs, &upload.id)?;
        }
    }
    Ok(())
}

fn forget_job(jobs: &Jobs, id: &str) -> Result<()> {
    jobs.store.remove(id)?;
    jobs.files.remove_result(id);
    Ok(())
}

fn forget_upload(jobs: &Jobs, id: &str) -> Result<()> {
    jobs.store.remove_upload(id)?;
    jobs.files.remove_upload(id);
    Ok(())
}

/// The uploads and results that unfinished jobs read.
fn in_use(jobs: &Jobs) -> Result<HashSet<String>> {
    let mut ids = HashSet::new();
    for job in jobs.store.unfinished()? {
        if let Ok(request) = Request::from_json(&job.body, Some(job.api)) {
            ids.extend([request.video, request.audio].iter().filter_map(|url| own_id(url)));
        }
    }
    Ok(ids)
}

fn remove_strays(jobs: &Jobs) -> Result<()> {
    for id in jobs.files.results() {
        if jobs.store.get(&id)?.is_none() {
            jobs.files.remove_result(&id);
        }
    }
    for id in jobs.files.uploads() {
        if jobs.store.upload(&id)?.is_none() {
            jobs.files.remove_upload(&id);
        }
    }
    Ok(())
}
