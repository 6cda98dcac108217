//! `/local`: the API of the web page, for what no vendor's has: a key's jobs of every API, with all their
//! stages, as an event stream that can be resumed.

mod routes;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::response::sse::Event;
use serde_json::{Value, json};

use super::app::{App, Caller};
use super::jobs::{Blame, CancelOutcome, JobRecord, LiveState, LogLine};
use super::problem::Problem;
use super::reply;
use super::sse::{self, JobEvents, Poll, Update};
pub use routes::{routes, schemas};

/// Length of the list of jobs.
const MAX_LISTED: u32 = 100;

/// The server's settings that the page shows.
async fn server(State(app): State<App>, _: Caller) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.config.model,
        "steps": app.config.defaults.steps,
        "max_upload": app.config.max_upload,
    });
    reply::json(StatusCode::OK, &body)
}

/// The caller's jobs, newest first.
async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    let Caller { owner, base_url } = caller;
    let jobs = app.blocking(move |app| Ok(app.jobs.store.newest_of(&owner, MAX_LISTED)?)).await?;
    let jobs: Vec<Value> =
        jobs.into_iter().map(|job| job_body(&app, &job.with_base_url(&base_url))).collect();
    Ok(reply::json(StatusCode::OK, &json!({"jobs": jobs})))
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "job").await?;
    Ok(reply::json(StatusCode::OK, &job_body(&app, &job)))
}

async fn cancel(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    app.job(&caller, &id, "job").await?;
    let job = id.clone();
    match app.blocking(move |app| Ok(app.jobs.cancel(&job)?)).await? {
        CancelOutcome::Cancelled | CancelOutcome::Requested => {
            let job = app.job(&caller, &id, "job").await?;
            Ok(reply::json(StatusCode::ACCEPTED, &job_body(&app, &job)))
        }
        CancelOutcome::AlreadyEnded => Err(Problem::Conflict("the job has already ended")),
        CancelOutcome::Unknown => Err(Problem::NotFound("job")),
    }
}

/// The job as server-sent events: whenever it changes, with the new log lines, until it has ended. An event's
/// identifier is the number of log lines sent so far; `Last-Event-ID` resumes a stream after them.
async fn events(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    app.job(&caller, &id, "job").await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    Ok(sse::response(app, LocalEvents { caller, id, lines_sent: last.unwrap_or(0) }))
}

struct LocalEvents {
    caller: Caller,
    id: String,
    lines_sent: usize,
}

impl LocalEvents {
    /// `None` if the job can no longer be read.
    async fn update(&mut self, app: &App) -> Option<Update> {
        let job = app.job(&self.caller, &self.id, "job").await.ok()?;
        let id = self.id.clone();
        let log = app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await.ok()?;
        let lines: Vec<Value> = log.iter().skip(self.lines_sent).map(line).collect();
        self.lines_sent = log.len();
        let state = job_body(app, &job);
        let body = json!({"job": state, "lines": lines});
        Some(Update {
            state,
            has_news: !lines.is_empty(),
            is_last: job.state.is_final(),
            event: Event::default().id(self.lines_sent.to_string()).data(body.to_string()),
        })
    }
}

impl JobEvents for LocalEvents {
    const MIN_INTERVAL: Duration = Duration::from_millis(100);

    async fn poll(&mut self, app: &App) -> Poll {
        self.update(app).await.map_or(Poll::End, Poll::Update)
    }
}

fn line(line: &LogLine) -> Value {
    json!({"at": line.at, "level": line.level.name(), "message": line.message})
}

/// A job as the page sees it. Times are milliseconds since 1970.
fn job_body(app: &App, job: &JobRecord) -> Value {
    let position = match app.jobs.live(&job.id) {
        Some(LiveState::Queued { position }) => Some(position),
        _ => None,
    };
    let stages: Vec<Value> = app
        .jobs
        .stages(&job.id)
        .iter()
        .map(|stage| json!({"name": stage.stage.name(), "done": stage.done, "total": stage.total}))
        .collect();
    let error = job.failure.as_ref().map(|failure| {
        let field = match failure.blame {
            Blame::Video => Some("video"),
            Blame::Audio => Some("audio"),
            Blame::Request | Blame::Server | Blame::StartTimeout => None,
        };
        json!({"field": field, "message": failure.message})
    });
    json!({
        "id": job.id,
        "api": job.api.name(),
        "state": job.state.name(),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "attempts": job.attempts,
        "body": redacted(&job.body),
        "position": position,
        "stages": stages,
        "error": error,
        "output": output(job),
    })
}

/// The result's URL, and parts of its report.
fn output(job: &JobRecord) -> Option<Value> {
    let (output, url) = (job.output.as_ref()?, job.output_url()?);
    let frames = |list: &Value| -> u64 {
        let ranges = list.as_array().into_iter().flatten();
        ranges.filter_map(|range| Some(range["last"].as_u64()? + 1 - range["first"].as_u64()?)).sum()
    };
    Some(json!({
        "url": url,
        "bytes": output.bytes,
        "seconds": output.seconds(),
        // A string, because a JavaScript number has not all 64 bits.
        "seed": output.report["seed"].to_string(),
        "frames": output.report["frames"],
        "frames_without_face": frames(&output.report["frames_without_face"]),
        "warnings": output.report["warnings"].as_array().map_or(0, Vec::len),
    }))
}

/// A body without secrets and without the content of data URIs.
fn redacted(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "webhook_secret");
            fields.map(|(name, value)| (name.clone(), redacted(value))).collect()
        }
        Value::Array(values) => values.iter().map(redacted).collect(),
        Value::String(text) if text.starts_with("data:") => "data:…".into(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_data_uris_are_not_sent() {
        let body = json!({
            "input": {"video_url": "data:video/mp4;base64,AAAA", "seed": 7},
            "webhook_secret": "s",
            "list": ["http://a/v.mp4"],
        });
        let expected = json!({"input": {"video_url": "data:…", "seed": 7}, "list": ["http://a/v.mp4"]});
        assert_eq!(redacted(&body), expected);
    }
}
