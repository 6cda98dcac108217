//! The worker thread: owns the model and runs one job at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::clean::{Keep, clean};
use super::engine::Engine;
use super::fetching::{Fetched, JobAbort, Prefetch, error_chain, fetch};
use super::inputs::Inputs;
use super::metrics::Metrics;
use super::queue::{StageProgress, Turn};
use super::{Blame, Failure, JobRecord, Jobs, Level, Outcome, Output};
use crate::error::{ErrorKind, InputRole};
use crate::options::Options;
use crate::pipeline::Job;
use crate::pipeline::report::{Progress, Report, Stage};
use crate::server::{Error, Result};
use crate::system::cancel::CancelToken;

/// Pause before a retry when the disk is full or the database cannot be written to.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Attempts at a job that finds the disk full.
const MAX_DISK_FULL_ATTEMPTS: usize = 12;

/// What the worker needs beside the engine.
pub struct Worker {
    pub jobs: Arc<Jobs>,
    pub inputs: Inputs,
    /// The options that a request does not set.
    pub defaults: Options,
    /// The model is unloaded after this long without jobs; never if absent.
    pub idle_unload: Option<Duration>,
    /// The retention rules, also applied when the disk is full.
    pub keep: Keep,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Loads the model and runs jobs until the queue is closed.
    ///
    /// # Errors
    /// The model cannot be loaded, or the database could not be written to until the server was stopped.
    /// The failure of a job is recorded with the job.
    pub fn run(&self, mut engine: Box<dyn Engine>) -> Result<()> {
        engine.load()?;
        self.metrics.ready();
        let mut timeout = self.idle_unload;
        let mut prefetch = None;
        loop {
            match self.jobs.next(timeout) {
                Turn::Closed => return Ok(()),
                Turn::Idle => {
                    engine.unload();
                    timeout = None;
                }
                Turn::Job { id, cancel } => {
                    timeout = self.idle_unload;
                    let done = self.run_job(&id, engine.as_mut(), &cancel, &mut prefetch);
                    self.jobs.files.end_work(&id);
                    self.jobs.end_turn();
                    done?;
                }
            }
        }
    }

    /// Runs the job `id`, unless it was cancelled in the meantime, and records its outcome.
    fn run_job(
        &self,
        id: &str,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
        prefetch: &mut Option<Prefetch>,
    ) -> Result<()> {
        let store = &self.jobs.store;
        if !self.retry_until_ok(|| store.start(id))? {
            return Ok(());
        }
        let Some(job) = self.retry_until_ok(|| store.get(id))? else { return Ok(()) };
        self.jobs.started();
        self.metrics.waited(&job);
        tracing::info!(job = id, api = job.api.name(), "started");
        let Some(outcome) = self.outcome(&job, engine, cancel, prefetch) else {
            tracing::info!(job = id, "stopped; restarts with the next server");
            return store.put_back(id).map(|_| ());
        };
        match &outcome {
            Outcome::Failed(failure) => {
                tracing::warn!(job = id, "failed: {}", failure.message);
                self.jobs.log(id, Level::Error, &failure.message);
            }
            outcome => tracing::info!(job = id, "{}", outcome.state().name()),
        }
        self.retry_until_ok(|| self.jobs.finish(id, &outcome)).map(|_| ())
    }

    /// The outcome of a job, after further attempts if the disk is full; `None` if the server stopped it.
    fn outcome(
        &self,
        job: &JobRecord,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
        prefetch: &mut Option<Prefetch>,
    ) -> Option<Outcome> {
        let server_failure = |message: &str| Outcome::Failed(Failure::of(Blame::Server, message.to_string()));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ended = catch_unwind(AssertUnwindSafe(|| self.attempt(job, engine, cancel, prefetch)));
            let Ok(ended) = ended else {
                // The state of the model after a panic is unknown.
                engine.unload();
                return Some(server_failure("the engine failed unexpectedly; the server's log says more"));
            };
            return match ended {
                Ok(output) => Some(Outcome::Completed(output)),
                Err(JobAbort::Interrupted) if self.jobs.stopped_by_closing() => None,
                Err(JobAbort::Interrupted) => Some(Outcome::Cancelled),
                Err(JobAbort::Failed(failure)) => Some(Outcome::Failed(failure)),
                Err(JobAbort::DiskFull(error)) if attempt < MAX_DISK_FULL_ATTEMPTS => {
                    self.make_room(&error);
                    continue;
                }
                Err(JobAbort::DiskFull(error)) => {
                    tracing::error!(job = job.id, "{}", error_chain(&error));
                    Some(server_failure("the server's disk is full"))
                }
            };
        }
    }

    /// Repeats a database operation until it succeeds or the server ends.
    fn retry_until_ok<T>(&self, operation: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match operation() {
                Err(error) if !self.jobs.is_closed() => self.make_room(&error),
                done => return done,
            }
        }
    }

    /// Applies the retention rules and waits: space may also be freed outside of the data directory.
    fn make_room(&self, error: &Error) {
        tracing::error!("retrying in {} s: {}", RETRY_PAUSE.as_secs(), error_chain(error));
        if let Err(error) = clean(&self.jobs, self.keep) {
            tracing::error!("the data directory cannot be cleaned: {}", error_chain(&error));
        }
        self.jobs.pause(RETRY_PAUSE);
    }

    /// One attempt at a job: fetches its inputs, runs the engine and publishes the result.
    fn attempt(
        &self,
        job: &JobRecord,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
        prefetch: &mut Option<Prefetch>,
    ) -> Result<Output, JobAbort> {
        let files = &self.jobs.files;
        let fetched = prefetch.take().and_then(|prefetch| prefetch.finish(&job.id, cancel));
        let fetched = match fetched {
            Some(Ok(fetched)) => fetched,
            Some(Err(JobAbort::Failed(failure))) => return Err(JobAbort::Failed(failure)),
            Some(Err(JobAbort::Interrupted | JobAbort::DiskFull(_))) | None => {
                fetch(&self.jobs, self.inputs, job, cancel)?
            }
        };
        let Fetched { request, video, audio } = fetched;
        let mut options = self.defaults.clone();
        request.apply(&mut options);
        // A job that restarts after a crash must compute the same result.
        options.seed.get_or_insert(seed_of(&job.id));
        let output = files.unfinished_result(&job.id).map_err(JobAbort::by_files)?;
        let names = Names { video: video.path(), audio: audio.path(), output: &output };
        // `video` and `audio` own the downloads, which must live through the run: here they are files
        // already.
        let engine_job = Job { options, ..Job::new(video.path(), audio.path(), &output) };
        let engine_job = engine_job.fetch(cancel).map_err(|error| JobAbort::by_files(error.into()))?;
        let mut progress = JobProgress { worker: self, job, logged: None, prefetch };
        let report = engine.run(&engine_job, &mut progress, cancel).map_err(|error| match error {
            error if error.is_interrupted() => JobAbort::Interrupted,
            full if full.is_disk_full() => JobAbort::DiskFull(full.into()),
            error => JobAbort::Failed(names.blamed(&error)),
        })?;
        for warning in &report.warnings {
            self.jobs.log(&job.id, Level::Warning, &names.hide(warning));
        }
        self.metrics.stages(&report);
        if let Err(error) = self.jobs.store.hooks().after_success(job, &output, files) {
            tracing::warn!(job = job.id, "the step after a successful run failed: {}", error_chain(&error));
        }
        files.publish(&job.id, public_report(&report)).map_err(JobAbort::by_files)
    }
}

/// The report without paths of this machine.
fn public_report(report: &Report) -> serde_json::Value {
    let mut report = serde_json::to_value(report).unwrap_or_default();
    if let Some(report) = report.as_object_mut() {
        report.remove("output");
    }
    report
}

/// The seed of a job without one: the first 32 bits of its random identifier.
fn seed_of(id: &str) -> u64 {
    id.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// The paths of a job's files on this machine, which clients must not see.
struct Names<'a> {
    video: &'a Path,
    audio: &'a Path,
    output: &'a Path,
}

impl Names<'_> {
    /// A failure of the engine, blamed on the input that it is about, if any.
    fn blamed(&self, error: &crate::Error) -> Failure {
        let message = error_chain(error);
        let blame = match (error.kind(), error.input_role()) {
            (ErrorKind::Usage, _) => Blame::Request,
            (ErrorKind::Input, Some(InputRole::Video)) => Blame::Video,
            (ErrorKind::Input, Some(InputRole::Voice)) => Blame::Audio,
            _ => Blame::Server,
        };
        Failure::of(blame, self.hide(&message))
    }

    /// Replaces the paths in `message` by the roles of the files.
    fn hide(&self, message: &str) -> String {
        let named = [(self.video, "the video"), (self.audio, "the audio"), (self.output, "the result")];
        named.iter().fold(message.to_string(), |message, (path, name)| {
            message.replace(&format!("`{}`", path.display()), name).replace(&*path.to_string_lossy(), name)
        })
    }
}

/// Reports the engine's progress to the job's log and to the queue.
struct JobProgress<'a> {
    worker: &'a Worker,
    job: &'a JobRecord,
    /// The stage that was logged last, and how many tenths of it were done.
    logged: Option<(Stage, usize)>,
    /// The next job's inputs are fetched while this job runs.
    prefetch: &'a mut Option<Prefetch>,
}

impl Progress for JobProgress<'_> {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.worker.jobs.progress(StageProgress { stage, done, total });
        if self.prefetch.as_ref().is_none_or(Prefetch::is_stale) {
            // One at a time: a stale one ends before the next begins.
            *self.prefetch = None;
            *self.prefetch = Prefetch::begin(&self.worker.jobs, self.worker.inputs);
        }
        // The stages run concurrently; the log follows denoising, which takes most of the time.
        if stage != Stage::DenoiseLatents {
            return;
        }
        let Some(total) = total.filter(|&total| total > 0) else { return };
        let tenths = done * 10 / total;
        if self.logged.replace((stage, tenths)) != Some((stage, tenths)) {
            self.log(&format!("{}: {} %", stage.name(), tenths * 10));
        }
    }

    fn log(&mut self, message: &str) {
        self.worker.jobs.log(&self.job.id, Level::Info, message);
    }
}
