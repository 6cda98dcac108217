//! The thread that owns the model and runs one job after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::inputs::Inputs;
use super::queue::{StageProgress, Turn};
use super::{Blame, Failure, JobRecord, Jobs, Level, Outcome, Output, cover};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::options::Options;
use crate::report::{CancelToken, Progress, Report, Stage};
use crate::request::{Api, Request};
use crate::server::metrics::Metrics;

/// Everything the worker needs beside the engine.
pub struct Worker {
    pub jobs: Arc<Jobs>,
    pub inputs: Inputs,
    /// What a request does not mention.
    pub defaults: Options,
    /// How long the model stays loaded without work; for ever if absent.
    pub idle_unload: Option<Duration>,
    pub metrics: Arc<Metrics>,
}

/// How work on a job stopped.
enum Stopped {
    Interrupted,
    Failed(Failure),
    /// The database cannot be written: nothing that this server says can be relied on.
    Storage(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => Stopped::Interrupted,
            error => Stopped::Failed(Failure::of(Blame::Server, told(&error))),
        }
    }
}

impl Worker {
    /// Loads the model and runs jobs until the queue is closed.
    ///
    /// # Errors
    /// Whatever keeps the server from being of use: a model that cannot be loaded, a database that cannot be
    /// written. A job's failure is the job's.
    pub fn run(&self, mut engine: Box<dyn Engine>) -> Result<()> {
        engine.load()?;
        self.metrics.ready();
        let mut patience = self.idle_unload;
        loop {
            match self.jobs.next(patience) {
                Turn::Closed => return Ok(()),
                Turn::Idle => {
                    engine.unload();
                    patience = None;
                }
                Turn::Job { id, cancel } => {
                    patience = self.idle_unload;
                    let done = self.turn(&id, engine.as_mut(), &cancel);
                    self.jobs.files.end_work(&id);
                    self.jobs.end_turn();
                    done?;
                }
            }
        }
    }

    fn turn(&self, id: &str, engine: &mut dyn Engine, cancel: &CancelToken) -> Result<()> {
        let store = &self.jobs.store;
        store.start(id)?;
        let Some(job) = store.get(id)? else { return Ok(()) };
        self.jobs.started();
        self.metrics.waited(&job);
        tracing::info!(job = id, api = job.api.name(), "started");
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(&job, engine, cancel)));
        let outcome = match worked {
            Ok(Ok(output)) => Outcome::Completed(output),
            Ok(Err(Stopped::Interrupted)) if self.jobs.stopped_by_closing() => {
                tracing::info!(job = id, "stopped; starts again with the next server");
                return store.requeue(id).map(|_| ());
            }
            Ok(Err(Stopped::Interrupted)) => Outcome::Cancelled,
            Ok(Err(Stopped::Failed(failure))) => Outcome::Failed(failure),
            Ok(Err(Stopped::Storage(error))) => return Err(error),
            Err(_) => {
                // What the panic left in the model is not to be trusted.
                engine.unload();
                let message = "the engine failed unexpectedly; the server's log says more".to_string();
                Outcome::Failed(Failure::of(Blame::Server, message))
            }
        };
        match &outcome {
            Outcome::Failed(failure) => {
                tracing::warn!(job = id, "failed: {}", failure.message);
                store.log(id, Level::Error, &failure.message)?;
            }
            outcome => tracing::info!(job = id, "{}", outcome.state().name()),
        }
        if !matches!(outcome, Outcome::Completed(_)) {
            self.jobs.files.remove_result(id);
        }
        store.finish(id, &outcome)?;
        self.metrics.ended(&outcome);
        Ok(())
    }

    fn work(
        &self,
        job: &JobRecord,
        engine: &mut dyn Engine,
        cancel: &CancelToken,
    ) -> Result<Output, Stopped> {
        let files = &self.jobs.files;
        let request = Request::from_json(&job.body, Some(job.api))
            .map_err(|error| Stopped::Failed(Failure::of(Blame::Request, error.to_string())))?;
        let directory = files.begin_work(&job.id)?;
        self.log(job, Level::Info, "fetching the video and the voice")?;
        let open = |url: &str, blame: Blame| {
            self.inputs.open(url, &directory, &self.jobs, cancel).map_err(|error| match error {
                Error::Interrupted => Stopped::Interrupted,
                error => {
                    let fetching = matches!(error, Error::Fetch { .. } | Error::ReadFile { .. });
                    Stopped::Failed(Failure { blame, fetching, message: told(&error) })
                }
            })
        };
        let video = open(&request.video, Blame::Video)?;
        let audio = open(&request.audio, Blame::Audio)?;
        let mut options = self.defaults.clone();
        request.apply(&mut options);
        // A job that starts again after a crash must compute the same.
        options.seed.get_or_insert(seed_of(&job.id));
        let output = files.unfinished_result(&job.id)?;
        let names = Names { video: video.path(), audio: audio.path(), output: &output };
        // The downloads go with `video` and `audio`, which live through the job.
        let task = Job { options, ..Job::new(video.path(), audio.path(), &output) };
        let mut progress = JobProgress { worker: self, job, told: None };
        let report = engine.run(&task, &mut progress, cancel).map_err(|error| match error {
            Error::Interrupted => Stopped::Interrupted,
            error => Stopped::Failed(names.blamed(&error)),
        })?;
        for warning in &report.warnings {
            self.log(job, Level::Warning, &names.hide(warning))?;
        }
        self.metrics.stages(&report);
        if job.api == Api::Jogg
            && let Err(error) = cover::write(&output, &files.cover(&job.id))
        {
            tracing::warn!(job = job.id, "no cover: {}", told(&error));
        }
        Ok(files.publish(&job.id, published(&report))?)
    }

    fn log(&self, job: &JobRecord, level: Level, message: &str) -> Result<(), Stopped> {
        self.jobs.store.log(&job.id, level, message).map_err(Stopped::Storage)
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

/// An error and its causes, on one line.
fn told(error: &Error) -> String {
    let error: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// This machine's names for a job's files, which the client must not see.
struct Names<'a> {
    video: &'a Path,
    audio: &'a Path,
    output: &'a Path,
}

impl Names<'_> {
    /// What a failure of the engine lies in: its message names the file, if it is about one.
    fn blamed(&self, error: &Error) -> Failure {
        let message = told(error);
        let names = |path: &Path| message.contains(&*path.to_string_lossy());
        let blame = match error.exit_code() {
            2 => Blame::Request,
            3 if names(self.video) => Blame::Video,
            3 if names(self.audio) => Blame::Audio,
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
}

impl Progress for JobProgress<'_> {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.worker.jobs.progress(StageProgress { stage, done, total });
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
        if let Err(error) = self.worker.jobs.store.log(&self.job.id, Level::Info, message) {
            tracing::error!(job = self.job.id, "cannot keep a line of the log: {error}");
        }
    }
}
