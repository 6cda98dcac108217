//! JoggAI's `open/v2` lip sync: create, get, find, upload, and webhook endpoints. Errors have HTTP status 200
//! and a `code` that is not 0; times are seconds since 1970.

mod routes;
mod cover;
mod endpoints;

use std::path::Path;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::request::{Api, Fields, Request};
use crate::server::Result as EngineResult;
use crate::server::app::{App, Caller};
use crate::server::jobs::files::COVER;
use crate::server::jobs::{DataDir, JobRecord, Outcome, State as JobState};
use crate::server::media;
use crate::server::problem::Problem;
use crate::server::reply;
use crate::server::routes::Routes;
use crate::server::vendor::{EndedJob, Message, Vendor, WebhookPolicy};

const NOT_FOUND: u32 = 10104;
const BAD_KEY: u32 = 10105;
const PARAMETER: u32 = 40000;
const SYSTEM: u32 = 50000;

pub struct Jogg;

impl Vendor for Jogg {
    fn name(&self) -> &'static str {
        routes::TAG
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Jogg]
    }

    fn routes(&self) -> Routes {
        routes::routes()
    }

    fn schemas(&self, _max_upload: u64) -> Value {
        routes::schemas()
    }

    fn webhook_operation(&self) -> Value {
        routes::webhook_operation()
    }

    fn error_response(&self, problem: &Problem) -> Response {
        error_response(problem)
    }

    /// Number and times of the retries are not documented: these are a few within ten minutes.
    fn webhook_policy(&self) -> WebhookPolicy {
        WebhookPolicy { timeout: Duration::from_secs(5), retry_seconds: &[30, 120, 450] }
    }

    /// Messages go to registered endpoints only.
    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message> {
        Some(endpoints::webhook_message(ended, ended.endpoint?))
    }

    fn after_success(&self, job: &JobRecord, result: &Path, files: &DataDir) -> EngineResult<()> {
        cover::write(result, &files.cover(&job.id))
    }

    fn endpoint_event(&self, outcome: &Outcome) -> Option<&'static str> {
        Some(endpoints::event(outcome.state()))
    }
}

fn error_response(problem: &Problem) -> Response {
    let (status, code) = match problem {
        Problem::Unauthorised | Problem::Foreign(_) => (StatusCode::OK, BAD_KEY),
        Problem::NotFound(_) => (StatusCode::OK, NOT_FOUND),
        Problem::Body(_) | Problem::Field(_) | Problem::Conflict(_) | Problem::TooLarge => {
            (StatusCode::OK, PARAMETER)
        }
        Problem::Method => (problem.status(), PARAMETER),
        // JoggAI has no code for "retry later", so the HTTP status says it: clients retry after it.
        Problem::Busy(_) | Problem::TooSlow | Problem::ShuttingDown => (problem.status(), SYSTEM),
        Problem::Server(_) => (StatusCode::OK, SYSTEM),
    };
    reply::json(status, &json!({"code": code, "msg": problem.message(), "data": null}))
}

fn success(data: &Value) -> Response {
    reply::json(StatusCode::OK, &json!({"code": 0, "msg": "Success", "data": data}))
}

async fn create(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let request = Request::from_json(&body, Some(Api::Jogg))?;
    let id = app.submit(caller.job(request, &body)).await?;
    Ok(success(&json!({"task_id": id, "status": "pending"})))
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "task").await?;
    match job.api {
        Api::Jogg => task_response(&app, job).await,
        _ => Err(Problem::NotFound("task")),
    }
}

/// The newest task that matches the query. A parameter that is absent matches every task.
async fn find(State(app): State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let Caller { owner, base_url } = caller;
    let job = app.blocking(move |app| {
        let matches = |name: &str, body: &Value, default: &str| {
            query.get(name).is_none_or(|wanted| body[name].as_str().unwrap_or(default) == wanted)
        };
        Ok(app.jobs.store.newest(Api::Jogg, &owner, |body| {
            matches("video_url", body, "")
                && matches("audio_url", body, "")
                && matches("playback_type", body, "normal")
        })?)
    });
    let job = job.await?.ok_or(Problem::NotFound("task"))?;
    task_response(&app, job.with_base_url(&base_url)).await
}

async fn task_response(app: &App, job: JobRecord) -> Result<Response, Problem> {
    let task = app.blocking(move |app| {
        let has_cover = app.jobs.files.cover(&job.id).is_file();
        Ok(task(&job, has_cover))
    });
    Ok(success(&task.await?))
}

/// A task as the API returns it.
fn task(job: &JobRecord, has_cover: bool) -> Value {
    let seconds = |time: Option<i64>| time.map(|time| time / 1000);
    let mut task = json!({
        "task_id": job.id,
        "status": match job.state {
            JobState::Queued => "pending",
            JobState::Running => "processing",
            JobState::Completed => "success",
            JobState::Failed | JobState::Cancelled => "failed",
        },
        "created_at": seconds(Some(job.created_at)),
        "completed_at": seconds(job.ended_at),
    });
    if let (Some(output), Some(url)) = (&job.output, job.output_url()) {
        let cover = format!("{}/media/{}/{COVER}", job.base_url, job.id);
        task["data"] = json!({
            "result_url": url,
            "cover_url": if has_cover { cover } else { String::new() },
            "duration_seconds": (output.seconds() * 1000.0).round() / 1000.0,
        });
    }
    if matches!(job.state, JobState::Failed | JobState::Cancelled) {
        let message = job.failure.as_ref().map_or("the task was cancelled", |failure| &failure.message);
        task["error"] = json!({"message": message});
    }
    task
}

/// Creates an upload and returns its URL.
async fn begin_upload(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let name = fields.required("filename", fields.string("filename")?)?;
    // The older of JoggAI's two documentation pages has no content type.
    let kind = fields.string("content_type")?.unwrap_or("application/octet-stream");
    if fields.count("file_size", 0..=u64::MAX)?.is_some_and(|size| size > app.config.max_upload) {
        return Err(Problem::TooLarge);
    }
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(success(&json!({"sign_url": slot.url, "asset_url": slot.url})))
}
