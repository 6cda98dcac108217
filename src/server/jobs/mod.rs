//! The job core: from a parsed request to its result, independent of the API.
//!
//! `store` keeps jobs in SQLite, `queue` orders them, `worker` owns the model and runs one job at a time,
//! `inputs` turns URLs into files, `fetching` does so ahead of time, `files` is the directory with uploads
//! and results, and `clean` deletes what has expired. [`ApiHooks`] is what the core asks of the API that a
//! job came through.

pub mod store;
pub mod files;
pub mod queue;
pub mod engine;
pub mod inputs;
pub mod worker;
mod fetching;
pub mod clean;
pub mod metrics;
mod hooks;
mod uploads;
mod deliveries;
mod endpoints;

pub use deliveries::{Attempt, Delivery};
pub use endpoints::Endpoint;
pub use files::DataDir;
pub use hooks::ApiHooks;
pub use queue::{CancelOutcome, Jobs, Limits, LiveState, StageProgress, SubmitError};
pub use store::{Filter, Store};
pub use uploads::Upload;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::{Api, Request};

/// The state of a job. All but `Queued` and `Running` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Queued, State::Running, State::Completed, State::Failed, State::Cancelled];

    /// The state's name in the database and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    pub fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Running)
    }
}

/// The receiver of the message that a job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// The secret that signs the message, where the API lets the caller choose it.
    pub secret: Option<String>,
}

/// A job's priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    #[default]
    Normal,
    /// Runs after all normal jobs, including later ones.
    Low,
}

/// A job that is to be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The parsed body.
    pub request: Request,
    /// The body as JSON text, which is stored. It is parsed again when the job runs, perhaps by a later
    /// server.
    pub raw: String,
    /// The owner of the API key; empty if the server requires none.
    pub owner: String,
    /// The base URL by which the client addressed this server: the webhook names the result by it.
    pub base_url: String,
    pub webhook: Option<Webhook>,
    pub priority: Priority,
    /// The job fails if it has not started by then (milliseconds since 1970).
    pub start_by: Option<i64>,
}

/// A job as it is in the database. Times are in milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct JobRecord {
    pub id: String,
    pub api: Api,
    pub owner: String,
    pub body: Value,
    /// The base URL of the result, as the reader of the record addresses this server.
    pub base_url: String,
    pub webhook: Option<Webhook>,
    pub priority: Priority,
    pub start_by: Option<i64>,
    pub state: State,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    /// How often the job was started: more than once if the server was killed while it ran.
    pub attempts: u32,
    pub failure: Option<Failure>,
    /// The file name of the result in its URL.
    pub output_name: String,
    pub output: Option<Output>,
}

impl JobRecord {
    /// The record for a reader who addresses this server by `base_url`.
    pub fn with_base_url(self, base_url: &str) -> Self {
        Self { base_url: base_url.to_string(), ..self }
    }

    /// Seconds from the start of the work to its end.
    pub fn run_seconds(&self) -> Option<f64> {
        // The clock may have been set back.
        Some((self.ended_at? - self.started_at?).max(0) as f64 / 1000.0)
    }

    /// The job in the state in which it was accepted, for the response to its submission.
    pub fn as_accepted(self) -> Self {
        Self { state: State::Queued, started_at: None, ended_at: None, failure: None, output: None, ..self }
    }

    /// The URL of the result; `None` before the job has completed.
    pub fn output_url(&self) -> Option<String> {
        self.output.as_ref().map(|_| format!("{}/media/{}/{}", self.base_url, self.id, self.output_name))
    }
}

/// A finished job's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub bytes: u64,
    /// The engine's [`Report`](crate::Report), as JSON.
    pub report: Value,
}

impl Output {
    /// The result's duration in seconds.
    pub fn seconds(&self) -> f64 {
        let number = |name: &str| self.report[name].as_f64();
        match (number("frames"), number("fps")) {
            (Some(frames), Some(fps)) if fps > 0.0 => frames / fps,
            _ => 0.0,
        }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub blame: Blame,
    /// The file could not be fetched, as opposed to a file that could not be used.
    pub fetching: bool,
    /// The chain of causes on one line.
    pub message: String,
}

impl Failure {
    /// A failure that is not one of fetching.
    pub fn of(blame: Blame, message: String) -> Self {
        Self { blame, fetching: false, message }
    }
}

/// What caused a failure. Vendors report client and server errors differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    Video,
    Audio,
    /// The request itself, not one of its files.
    Request,
    /// The job did not start within the time that the client allows.
    #[serde(rename = "patience")]
    StartTimeout,
    Server,
}

/// How a job ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    Completed(Output),
    Failed(Failure),
    Cancelled,
}

impl Outcome {
    pub fn state(&self) -> State {
        match self {
            Outcome::Completed(_) => State::Completed,
            Outcome::Failed(_) => State::Failed,
            Outcome::Cancelled => State::Cancelled,
        }
    }
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Milliseconds since 1970.
    pub at: i64,
    pub level: Level,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        }
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).timestamp_millis()
}
