//! `/local`: what none of the vendors has and the page needs. A key's jobs whatever API they came by, each
//! with all its stages, as a stream that can be taken up again where it broke off.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Value, json};

use super::app::{App, Caller};
use super::jobs::{Blame, Cancelled, JobRecord, Live, LogLine};
use super::problem::{Problem, answer_with};
use super::reply;

/// Jobs in a list.
const LISTED: u32 = 100;
/// Whoever listens learns at least this often that the server is still there.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// And is not told more often than this.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

pub fn router() -> Router<App> {
    Router::new()
        .route("/local/server", get(server))
        .route("/local/jobs", get(list))
        .route("/local/jobs/{id}", get(show))
        .route("/local/jobs/{id}/events", get(events))
        .route("/local/jobs/{id}/cancel", post(cancel))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    reply::json(problem.status(), &json!({"detail": problem.message()}))
}

/// What the server's command line says that a client may want to know.
async fn server(State(app): State<App>, _: Caller) -> Response {
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": app.config.model,
        "steps": app.config.defaults.steps,
        "max_upload": app.config.max_upload,
    });
    reply::json(StatusCode::OK, &body)
}

/// The key's jobs, the newest first.
async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    let Caller { owner, base_url } = caller;
    let jobs = app.blocking(move |app| Ok(app.jobs.store.newest_of(&owner, LISTED)?)).await?;
    let here = jobs.into_iter().map(|job| JobRecord { base_url: base_url.clone(), ..job });
    let jobs: Vec<Value> = here.map(|job| told(&app, &job)).collect();
    Ok(reply::json(StatusCode::OK, &json!({"jobs": jobs})))
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "job").await?;
    Ok(reply::json(StatusCode::OK, &told(&app, &job)))
}

async fn cancel(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    app.job(&caller, &id, "job").await?;
    let wanted = id.clone();
    match app.blocking(move |app| Ok(app.jobs.cancel(&wanted)?)).await? {
        Cancelled::Done | Cancelled::Requested => {
            let job = app.job(&caller, &id, "job").await?;
            Ok(reply::json(StatusCode::ACCEPTED, &told(&app, &job)))
        }
        Cancelled::AlreadyEnded => Err(Problem::Conflict("the job has already ended")),
        Cancelled::Unknown => Err(Problem::NotFound("job")),
    }
}

/// The job whenever it changes, with the lines of the log that are new, until it has ended. An event's
/// identifier is the number of lines told so far; `Last-Event-ID` says how many are known already.
async fn events(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    app.job(&caller, &id, "job").await?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let watch = Watch { app, caller, id, told: None, lines: last.unwrap_or(0), ended: false };
    let events = stream::unfold(watch, |mut watch| async move {
        let body = watch.next().await?;
        let event = Event::default().id(watch.lines.to_string()).data(body.to_string());
        Some((Ok::<_, Infallible>(event), watch))
    });
    Ok(Sse::new(events).into_response())
}

struct Watch {
    app: App,
    caller: Caller,
    id: String,
    /// The job as the last event told it.
    told: Option<Value>,
    /// Lines of the log that have been told.
    lines: usize,
    ended: bool,
}

impl Watch {
    /// The next event; `None` when the job has ended and that was said, or nothing can be said any more.
    async fn next(&mut self) -> Option<Value> {
        if self.ended {
            return None;
        }
        let mut changes = self.app.jobs.changes();
        let silent_until = tokio::time::Instant::now() + AT_LEAST_EVERY;
        loop {
            changes.mark_unchanged();
            let job = self.app.job(&self.caller, &self.id, "job").await.ok()?;
            let id = self.id.clone();
            let log = self.app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await.ok()?;
            let now = told(&self.app, &job);
            let silent = tokio::time::Instant::now() >= silent_until;
            if log.len() > self.lines || silent || self.told.as_ref() != Some(&now) {
                let lines: Vec<Value> = log.iter().skip(self.lines).map(line).collect();
                self.lines = log.len();
                self.ended = job.state.is_final();
                self.told = Some(now.clone());
                return Some(json!({"job": now, "lines": lines}));
            }
            if self.app.jobs.is_closed() {
                return None;
            }
            tokio::time::sleep(AT_MOST_EVERY).await;
            let _ = tokio::time::timeout_at(silent_until, changes.changed()).await;
        }
    }
}

fn line(line: &LogLine) -> Value {
    json!({"at": line.at, "level": line.level.name(), "message": line.message})
}

/// A job. Times are milliseconds since 1970.
fn told(app: &App, job: &JobRecord) -> Value {
    let position = match app.jobs.live(&job.id) {
        Some(Live::Queued { position }) => Some(position),
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
            Blame::Request | Blame::Server | Blame::Patience => None,
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
        "body": shown(&job.body),
        "position": position,
        "stages": stages,
        "error": error,
        "output": output(job),
    })
}

/// The result's address and what its report says of it.
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
        // Not a number: seeds have 64 bits, and a browser's numbers do not.
        "seed": output.report["seed"].to_string(),
        "frames": output.report["frames"],
        "frames_without_face": frames(&output.report["frames_without_face"]),
        "warnings": output.report["warnings"].as_array().map_or(0, Vec::len),
    }))
}

/// A body without what is secret in it, and without files that are written out in it.
fn shown(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| *name != "webhook_secret");
            fields.map(|(name, value)| (name.clone(), shown(value))).collect()
        }
        Value::Array(values) => values.iter().map(shown).collect(),
        Value::String(text) if text.starts_with("data:") => "data:…".into(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_secrets_nor_whole_files_are_told() {
        let body = json!({
            "input": {"video_url": "data:video/mp4;base64,AAAA", "seed": 7},
            "webhook_secret": "s",
            "list": ["http://a/v.mp4"],
        });
        let expected = json!({"input": {"video_url": "data:…", "seed": 7}, "list": ["http://a/v.mp4"]});
        assert_eq!(shown(&body), expected);
    }
}
