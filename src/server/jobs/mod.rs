//! The job core: what every API's request becomes, and how it gets from acceptance to a result.
//!
//! `store` keeps jobs in SQLite, `queue` decides whose turn it is, `worker` owns the model and runs them one
//! after the other, `inputs` turns what a request names into files, `fetching` does so ahead, `files` is the directory with the
//! uploads and the results, `clean` empties it again.

pub mod store;
pub mod files;
pub mod queue;
pub mod engine;
pub mod inputs;
pub mod worker;
mod fetching;
pub mod clean;
mod cover;
mod uploads;
mod deliveries;
mod endpoints;

pub use deliveries::{Attempt, Delivery};
pub use endpoints::Endpoint;
pub use files::DataDir;
pub use queue::{Cancelled, Jobs, Limits, Live, Refused, StageProgress};
pub use store::{Filter, Store};
pub use uploads::Upload;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::request::Api;

/// Where a job is. Only `Queued` and `Running` ever change.
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

/// Who is told when a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// Signs the message, where the vendor lets the caller choose the secret.
    pub secret: Option<String>,
}

/// Which jobs come before which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    #[default]
    Normal,
    /// After all normal ones, whenever they come.
    Low,
}

/// A request that is about to become a job. Its body has been read and found right.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub api: Api,
    /// Whose key it came with; empty where none is asked for.
    pub owner: String,
    /// As the client sent it: what the job computes is read from it again when the job runs.
    pub body: Value,
    /// How the client addressed this server: the webhook tells of the result under the same address.
    pub base_url: String,
    pub webhook: Option<Webhook>,
    pub priority: Priority,
    /// The job fails if its turn has not come by then (milliseconds since 1970).
    pub start_by: Option<i64>,
}

/// A job as it is in the database. Times are in milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct JobRecord {
    pub id: String,
    pub api: Api,
    pub owner: String,
    pub body: Value,
    /// Under which address this server is told to whom the record is for.
    pub base_url: String,
    pub webhook: Option<Webhook>,
    pub priority: Priority,
    pub start_by: Option<i64>,
    pub state: State,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    /// How often the job was started: more than once after the server was killed.
    pub attempts: u32,
    pub failure: Option<Failure>,
    pub output: Option<Output>,
}

impl JobRecord {
    /// Seconds from the start of the work to its end.
    pub fn run_seconds(&self) -> Option<f64> {
        // Clocks are set back now and then.
        Some((self.ended_at? - self.started_at?).max(0) as f64 / 1000.0)
    }

    /// The job as it was accepted, whatever has become of it since: what a submission answers.
    pub fn as_accepted(self) -> Self {
        Self { state: State::Queued, started_at: None, ended_at: None, failure: None, output: None, ..self }
    }

    /// Where the result is, once there is one.
    pub fn output_url(&self) -> Option<String> {
        self.output.as_ref().map(|_| format!("{}/media/{}/{}", self.base_url, self.id, self.output_name()))
    }

    /// The result's name in its URL. Only sync.so's requests may choose it.
    pub fn output_name(&self) -> String {
        match (self.api, self.body["outputFileName"].as_str()) {
            (Api::SyncSo, Some(name)) if !name.is_empty() => format!("{name}.mp4"),
            _ => files::OUTPUT.to_string(),
        }
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
    /// The file could not be fetched; otherwise it was there, and could not be used.
    pub fetching: bool,
    /// The chain of causes on one line.
    pub message: String,
}

impl Failure {
    /// A failure that has nothing to do with fetching.
    pub fn of(blame: Blame, message: String) -> Self {
        Self { blame, fetching: false, message }
    }
}

/// What the failure lies in: vendors answer differently for a request's fault and for their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    Video,
    Audio,
    /// The request, but not one of its files.
    Request,
    /// The time that the client has set for the job's turn to come.
    Patience,
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

/// Something that a job said, in order.
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
