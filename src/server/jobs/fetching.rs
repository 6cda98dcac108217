//! Fetching the inputs of a job, when it runs or while the job before it runs.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::inputs::Inputs;
use super::{Blame, Failure, JobRecord, Jobs, Level, LiveState};
use crate::input::LocalInput;
use crate::request::Request;
use crate::server::Error;
use crate::system::cancel::CancelToken;

/// How often a job that waits for its prefetch is checked for cancellation.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The request and the local input files of a job.
pub struct Fetched {
    pub request: Request,
    pub video: LocalInput,
    pub audio: LocalInput,
}

/// Why an attempt at a job ended without a result.
pub enum JobAbort {
    Interrupted,
    Failed(Failure),
    /// The disk is full, perhaps temporarily.
    DiskFull(Error),
}

impl JobAbort {
    /// A failure of the server with its own files. The message for the client does not name them.
    pub fn by_files(error: Error) -> Self {
        match error {
            error if error.is_interrupted() => JobAbort::Interrupted,
            full if full.is_disk_full() => JobAbort::DiskFull(full),
            error => {
                tracing::error!("{}", error_chain(&error));
                let message = "the server cannot read or write its files".to_string();
                JobAbort::Failed(Failure::of(Blame::Server, message))
            }
        }
    }
}

/// An error and its causes, on one line.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Parses the stored body of a job and fetches its inputs.
pub fn fetch(
    jobs: &Jobs,
    inputs: Inputs,
    job: &JobRecord,
    cancel: &CancelToken,
) -> Result<Fetched, JobAbort> {
    let request = Request::from_json(&job.body, Some(job.api))
        .map_err(|error| JobAbort::Failed(Failure::of(Blame::Request, error.to_string())))?;
    let directory = jobs.files.begin_work(&job.id).map_err(JobAbort::by_files)?;
    jobs.log(&job.id, Level::Info, "fetching the video and the voice");
    if !request.ignored.is_empty() {
        jobs.log(&job.id, Level::Warning, &format!("without effect here: {}", request.ignored.join(", ")));
    }
    let open = |url: &str, blame: Blame| {
        inputs.open(url, &directory, jobs, cancel).map_err(|error| match error {
            error if error.is_interrupted() => JobAbort::Interrupted,
            full if full.is_disk_full() => JobAbort::DiskFull(full),
            error => {
                let fetching = error.is_fetching();
                JobAbort::Failed(Failure { blame, fetching, message: error_chain(&error) })
            }
        })
    };
    let (video, audio) = (open(&request.video, Blame::Video)?, open(&request.audio, Blame::Audio)?);
    Ok(Fetched { request, video, audio })
}

/// The inputs of the next job, which are being fetched. Dropping it cancels the download.
pub struct Prefetch {
    id: String,
    jobs: Arc<Jobs>,
    cancel: CancelToken,
    thread: Option<JoinHandle<Result<Fetched, JobAbort>>>,
}

impl Prefetch {
    /// Begins to fetch the inputs of the first waiting job, if there is one.
    pub fn begin(jobs: &Arc<Jobs>, inputs: Inputs) -> Option<Self> {
        let id = jobs.first()?;
        let cancel = CancelToken::new();
        let work = {
            let (jobs, id, cancel) = (jobs.clone(), id.clone(), cancel.clone());
            move || match jobs.store.get(&id) {
                Ok(Some(job)) => fetch(&jobs, inputs, &job, &cancel),
                Ok(None) => Err(JobAbort::Interrupted),
                Err(error) => Err(JobAbort::by_files(error)),
            }
        };
        let thread = thread::Builder::new().name("prefetch".to_string()).spawn(work).ok()?;
        Some(Self { id, jobs: jobs.clone(), cancel, thread: Some(thread) })
    }

    /// Whether the job is no longer waiting.
    pub fn is_stale(&self) -> bool {
        !matches!(self.jobs.live(&self.id), Some(LiveState::Queued { .. }))
    }

    /// Waits for the inputs, which `cancel` interrupts. `None` if they are not those of the job `id`.
    pub fn finish(mut self, id: &str, cancel: &CancelToken) -> Option<Result<Fetched, JobAbort>> {
        if self.id != id {
            return None;
        }
        let thread = self.thread.take()?;
        while !thread.is_finished() {
            if cancel.is_cancelled() {
                self.cancel.cancel();
            }
            thread::sleep(POLL_INTERVAL);
        }
        // After a panic the job fetches its inputs itself.
        thread.join().ok()
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.cancel.cancel();
            // The downloads are deleted before their directory.
            drop(thread.join());
            self.jobs.files.end_work(&self.id);
        }
    }
}
