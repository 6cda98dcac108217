//! A job's inputs, fetched on its turn, or ahead of it while another job runs.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::inputs::Inputs;
use super::{Blame, Failure, JobRecord, Jobs, Level, Live};
use crate::input::LocalInput;
use crate::request::Request;
use crate::server::Error;
use crate::system::cancel::CancelToken;

/// How often it is looked whether a job was cancelled whose inputs are on their way.
const LOOK: Duration = Duration::from_millis(50);

/// What a job computes with, here.
pub struct Fetched {
    pub request: Request,
    pub video: LocalInput,
    pub audio: LocalInput,
}

/// Why work on a job stopped.
pub enum Stopped {
    Interrupted,
    Failed(Failure),
    /// The disk is full. That passes, perhaps.
    NoRoom(Error),
}

impl Stopped {
    /// The server cannot do something with its own files. The client is not told their names.
    pub fn by_files(error: Error) -> Self {
        match error {
            error if error.is_interrupted() => Stopped::Interrupted,
            full if full.is_disk_full() => Stopped::NoRoom(full),
            error => {
                tracing::error!("{}", told(&error));
                let message = "the server cannot read or write its files".to_string();
                Stopped::Failed(Failure::of(Blame::Server, message))
            }
        }
    }
}

/// An error and its causes, on one line.
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Fetches what a job reads.
pub fn fetch(jobs: &Jobs, inputs: Inputs, job: &JobRecord, cancel: &CancelToken) -> Result<Fetched, Stopped> {
    let request = Request::from_json(&job.body, Some(job.api))
        .map_err(|error| Stopped::Failed(Failure::of(Blame::Request, error.to_string())))?;
    let directory = jobs.files.begin_work(&job.id).map_err(Stopped::by_files)?;
    jobs.log(&job.id, Level::Info, "fetching the video and the voice");
    if !request.ignored.is_empty() {
        jobs.log(&job.id, Level::Warning, &format!("without effect here: {}", request.ignored.join(", ")));
    }
    let open = |url: &str, blame: Blame| {
        inputs.open(url, &directory, jobs, cancel).map_err(|error| match error {
            error if error.is_interrupted() => Stopped::Interrupted,
            full if full.is_disk_full() => Stopped::NoRoom(full),
            error => {
                let fetching = error.is_fetching();
                Stopped::Failed(Failure { blame, fetching, message: told(&error) })
            }
        })
    };
    let (video, audio) = (open(&request.video, Blame::Video)?, open(&request.audio, Blame::Audio)?);
    Ok(Fetched { request, video, audio })
}

/// The inputs of the job that comes next, on their way. Gives up when it is dropped.
pub struct Ahead {
    id: String,
    jobs: Arc<Jobs>,
    cancel: CancelToken,
    thread: Option<JoinHandle<Result<Fetched, Stopped>>>,
}

impl Ahead {
    /// Begins with the first job of the queue, if there is one.
    pub fn begin(jobs: &Arc<Jobs>, inputs: Inputs) -> Option<Self> {
        let id = jobs.first()?;
        let cancel = CancelToken::new();
        let work = {
            let (jobs, id, cancel) = (jobs.clone(), id.clone(), cancel.clone());
            move || match jobs.store.get(&id) {
                Ok(Some(job)) => fetch(&jobs, inputs, &job, &cancel),
                Ok(None) => Err(Stopped::Interrupted),
                Err(error) => Err(Stopped::by_files(error)),
            }
        };
        let thread = thread::Builder::new().name("ahead".to_string()).spawn(work).ok()?;
        Some(Self { id, jobs: jobs.clone(), cancel, thread: Some(thread) })
    }

    /// Whether nobody waits for it any more.
    pub fn is_in_vain(&self) -> bool {
        !matches!(self.jobs.live(&self.id), Some(Live::Queued { .. }))
    }

    /// The inputs, if they are those of the job `id`, whose turn has come and which `cancel` stops.
    pub fn of(mut self, id: &str, cancel: &CancelToken) -> Option<Result<Fetched, Stopped>> {
        if self.id != id {
            return None;
        }
        let thread = self.thread.take()?;
        while !thread.is_finished() {
            if cancel.is_cancelled() {
                self.cancel.cancel();
            }
            thread::sleep(LOOK);
        }
        // A panic in there is one of the job's.
        thread.join().ok()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.cancel.cancel();
            // What was fetched goes first, then the place where it was.
            drop(thread.join());
            self.jobs.files.end_work(&self.id);
        }
    }
}
