//! The thread that owns the model and runs one job after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::clean::{Keep, clean};
use super::engine::Engine;
use super::fetching::{Ahead, Fetched, Stopped, fetch, told};
use super::inputs::Inputs;
use super::queue::{StageProgress, Turn};
use super::{Blame, Failure, JobRecord, Jobs, Level, Outcome, Output, cover};
use crate::error::{ErrorKind, InputRole};
use crate::options::Options;
use crate::pipeline::Job;
use crate::pipeline::report::{Progress, Report, Stage};
use crate::request::Api;
use crate::server::metrics::Metrics;
use crate::server::{Error, Result};
use crate::system::cancel::CancelToken;

/// How long a disk that is full, or a database that cannot be written, is given before it is tried again.
const PAUSE: Duration = Duration::from_secs(10);
/// How often a job is tried that finds the disk full.
const ROOM_ATTEMPTS: usize = 12;

/// Everything the worker needs beside the engine.
pub struct Worker {
    pub jobs: Arc<Jobs>,
    pub inputs: Inputs,
    /// What a request does not mention.
    pub defaults: Options,
    /// How long the model stays loaded without work; for ever if absent.
    pub idle_unload: Option<Duration>,
    /// What may go when the disk is full.
    pub keep: Keep,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Loads the model and runs jobs until the queue is closed.
    ///
    /// # Errors
    /// Whatever keeps the server from being of use: a model that cannot be loaded, a database that cannot be
    /// written until the end. A job's failure is the job's.
    pub fn run(&self, mut engine: Box<dyn Engine>) -> Result<()> {
        engine.load()?;
        self.metrics.ready();
        let mut patience = self.idle_unload;
        let mut ahead = None;
        loop {
            match self.jobs.next(patience) {
                Turn::Closed => return Ok(()),
                Turn::Idle => {
                    engine.unload();
                    patience = None;
                }
                Turn::Job { id, cancel } => {
                    patience = self.idle_unload;
                    let done = self.turn(&id, engine.as_mut(), &cancel, &mut ahead);
                    self.jobs.files.end_work(&id);
                    self.jobs.end_turn();
                    done?;
                }
            }
        }
    }

    fn turn(
        &self,
        id: &str,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
        ahead: &mut Option<Ahead>,
    ) -> Result<()> {
        let store = &self.jobs.store;
        if !self.insist(|| store.start(id))? {
            return Ok(());
        }
        let Some(job) = self.insist(|| store.get(id))? else { return Ok(()) };
        self.jobs.started();
        self.metrics.waited(&job);
        tracing::info!(job = id, api = job.api.name(), "started");
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            match catch_unwind(AssertUnwindSafe(|| self.work(&job, engine, cancel, ahead))) {
                Ok(Ok(output)) => break Outcome::Completed(output),
                Ok(Err(Stopped::Interrupted)) if self.jobs.stopped_by_closing() => {
                    tracing::info!(job = id, "stopped; starts again with the next server");
                    return store.put_back(id).map(|_| ());
                }
                Ok(Err(Stopped::Interrupted)) => break Outcome::Cancelled,
                Ok(Err(Stopped::Failed(failure))) => break Outcome::Failed(failure),
                Ok(Err(Stopped::NoRoom(error))) if attempt == ROOM_ATTEMPTS => {
                    tracing::error!(job = id, "{}", told(&error));
                    let message = "the server's disk is full".to_string();
                    break Outcome::Failed(Failure::of(Blame::Server, message));
                }
                Ok(Err(Stopped::NoRoom(error))) => self.make_room(&error),
                Err(_) => {
                    // What the panic left in the model is not to be trusted.
                    engine.unload();
                    let message = "the engine failed unexpectedly; the server's log says more".to_string();
                    break Outcome::Failed(Failure::of(Blame::Server, message));
                }
            }
        };
        match &outcome {
            Outcome::Failed(failure) => {
                tracing::warn!(job = id, "failed: {}", failure.message);
                self.jobs.log(id, Level::Error, &failure.message);
            }
            outcome => tracing::info!(job = id, "{}", outcome.state().name()),
        }
        self.insist(|| self.jobs.finish(id, &outcome)).map(|_| ())
    }

    /// Does what the database refuses again, until it does not or the server ends.
    fn insist<T>(&self, what: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match what() {
                Err(error) if !self.jobs.is_closed() => self.make_room(&error),
                done => return done,
            }
        }
    }

    /// Removes what may go, and waits: other things than this server's files may go, too.
    fn make_room(&self, error: &Error) {
        tracing::error!("tried again in {} s: {}", PAUSE.as_secs(), told(error));
        if let Err(error) = clean(&self.jobs, self.keep) {
            tracing::error!("the data directory cannot be cleaned: {}", told(&error));
        }
        self.jobs.pause(PAUSE);
    }

    fn work(
        &self,
        job: &JobRecord,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
        ahead: &mut Option<Ahead>,
    ) -> Result<Output, Stopped> {
        let files = &self.jobs.files;
        let fetched = ahead.take().and_then(|ahead| ahead.of(&job.id, cancel));
        let fetched = match fetched {
            Some(Ok(fetched)) => fetched,
            Some(Err(Stopped::Failed(failure))) => return Err(Stopped::Failed(failure)),
            Some(Err(Stopped::Interrupted | Stopped::NoRoom(_))) | None => {
                fetch(&self.jobs, self.inputs, job, cancel)?
            }
        };
        let Fetched { request, video, audio } = fetched;
        let mut options = self.defaults.clone();
        request.apply(&mut options);
        // A job that starts again after a crash must compute the same.
        options.seed.get_or_insert(seed_of(&job.id));
        let output = files.unfinished_result(&job.id).map_err(Stopped::by_files)?;
        let names = Names { video: video.path(), audio: audio.path(), output: &output };
        // The downloads go with `video` and `audio`, which live through the job.
        let task = Job { options, ..Job::new(video.path(), audio.path(), &output) };
        let mut progress = JobProgress { worker: self, job, told: None, ahead };
        let report = engine.run(&task, &mut progress, cancel).map_err(|error| match error {
            error if error.is_interrupted() => Stopped::Interrupted,
            full if full.is_disk_full() => Stopped::NoRoom(full.into()),
            error => Stopped::Failed(names.blamed(&error)),
        })?;
        for warning in &report.warnings {
            self.jobs.log(&job.id, Level::Warning, &names.hide(warning));
        }
        self.metrics.stages(&report);
        if job.api == Api::Jogg
            && let Err(error) = cover::write(&output, &files.cover(&job.id))
        {
            tracing::warn!(job = job.id, "no cover: {}", told(&error));
        }
        files.publish(&job.id, published(&report)).map_err(Stopped::by_files)
    }
}

/// The report as a client may see it, without this machine's paths.
fn published(report: &Report) -> serde_json::Value {
    let mut report = serde_json::to_value(report).unwrap_or_default();
    if let Some(report) = report.as_object_mut() {
        report.remove("output");
    }
    report
}

/// The first 32 bits of a random identifier.
fn seed_of(id: &str) -> u64 {
    id.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// This machine's names for a job's files, which the client must not see.
struct Names<'a> {
    video: &'a Path,
    audio: &'a Path,
    output: &'a Path,
}

impl Names<'_> {
    /// A failure of the engine, blamed on the input that it is about, if any.
    fn blamed(&self, error: &crate::Error) -> Failure {
        let message = told(error);
        let blame = match (error.kind(), error.input_role()) {
            (ErrorKind::Usage, _) => Blame::Request,
            (ErrorKind::Input, Some(InputRole::Video)) => Blame::Video,
            (ErrorKind::Input, Some(InputRole::Voice)) => Blame::Audio,
            _ => Blame::Server,
        };
        Failure::of(blame, self.hide(&message))
    }

    /// Puts the client's words for its files in place of the paths.
    fn hide(&self, message: &str) -> String {
        let named = [(self.video, "the video"), (self.audio, "the audio"), (self.output, "the result")];
        named.iter().fold(message.to_string(), |message, (path, name)| {
            message.replace(&format!("`{}`", path.display()), name).replace(&*path.to_string_lossy(), name)
        })
    }
}

/// Writes the engine's progress to the job's log and to the queue.
struct JobProgress<'a> {
    worker: &'a Worker,
    job: &'a JobRecord,
    /// The stage that was mentioned last, and how many tenths of it.
    told: Option<(Stage, usize)>,
    /// The next job's inputs are fetched while this one computes.
    ahead: &'a mut Option<Ahead>,
}

impl Progress for JobProgress<'_> {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.worker.jobs.progress(StageProgress { stage, done, total });
        if self.ahead.as_ref().is_none_or(Ahead::is_in_vain) {
            // Only one at a time: the one before gives its place up first.
            *self.ahead = None;
            *self.ahead = Ahead::begin(&self.worker.jobs, self.worker.inputs);
        }
        // The stages run side by side; the log follows the one that takes the time.
        if stage != Stage::DenoiseLatents {
            return;
        }
        let Some(total) = total.filter(|&total| total > 0) else { return };
        let tenths = done * 10 / total;
        if self.told.replace((stage, tenths)) != Some((stage, tenths)) {
            self.log(&format!("{}: {} %", stage.name(), tenths * 10));
        }
    }

    fn log(&mut self, message: &str) {
        self.worker.jobs.log(&self.job.id, Level::Info, message);
    }
}
