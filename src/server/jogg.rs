//! JoggAI's `open/v2` lip sync: create, get, find and upload. What goes wrong rides in `code`, below HTTP 200;
//! times are seconds since 1970.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, Caller, Order};
use super::jobs::files::COVER;
use super::jobs::{JobRecord, State as JobState};
use super::media;
use super::problem::{Problem, answer_with};
use super::reply;
use crate::request::{Api, FieldError, Request};

const NOT_FOUND: u32 = 10104;
const BAD_KEY: u32 = 10105;
const PARAMETER: u32 = 40000;
const SYSTEM: u32 = 50000;

pub fn router() -> Router<App> {
    Router::new()
        .route("/open/v2/create_lip_sync_video", post(create))
        .route("/v2/create_lip_sync_video", post(create))
        .route("/open/v2/lip_sync_video/{id}", get(show))
        .route("/v2/lip_sync_video/{id}", get(show))
        .route("/open/v2/lip_sync_video", get(find))
        .route("/v2/lip_sync_video", get(find))
        .route("/open/v2/upload/asset", post(begin_upload))
        .route("/v2/upload/asset", post(begin_upload))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    let (status, code) = match problem {
        Problem::Unauthorised | Problem::Foreign(_) => (StatusCode::OK, BAD_KEY),
        Problem::NotFound(_) => (StatusCode::OK, NOT_FOUND),
        Problem::Body(_) | Problem::Field(_) | Problem::Conflict(_) => (StatusCode::OK, PARAMETER),
        // No code of JoggAI's says "later", so that HTTP does.
        Problem::Busy(_) | Problem::TooLarge => (problem.status(), PARAMETER),
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
    Request::from_json(&body, Some(Api::Jogg))?;
    let order = Order { api: Api::Jogg, body, webhook: None, at_once: None };
    let id = app.submit(&caller, order).await?;
    Ok(success(&json!({"task_id": id, "status": "pending"})))
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "task").await?;
    match job.api {
        Api::Jogg => tell(&app, job).await,
        _ => Err(Problem::NotFound("task")),
    }
}

#[derive(Deserialize)]
struct FindQuery {
    video_url: Option<String>,
    audio_url: Option<String>,
    playback_type: Option<String>,
}

/// The newest task with these inputs; what the query leaves out may be anything.
async fn find(
    State(app): State<App>,
    caller: Caller,
    reply::Query(query): reply::Query<FindQuery>,
) -> Result<Response, Problem> {
    let matches = |wanted: &Option<String>, had: &Value, default: &str| {
        wanted.as_deref().is_none_or(|wanted| had.as_str().unwrap_or(default) == wanted)
    };
    let Caller { owner, base_url } = caller;
    let job = app.blocking(move |app| {
        Ok(app.jobs.store.newest(Api::Jogg, &owner, |body| {
            matches(&query.video_url, &body["video_url"], "")
                && matches(&query.audio_url, &body["audio_url"], "")
                && matches(&query.playback_type, &body["playback_type"], "normal")
        })?)
    });
    let job = job.await?.ok_or(Problem::NotFound("task"))?;
    tell(&app, JobRecord { base_url, ..job }).await
}

async fn tell(app: &App, job: JobRecord) -> Result<Response, Problem> {
    let task = app.blocking(move |app| {
        let covered = app.jobs.files.cover(&job.id).is_file();
        Ok(task(&job, covered))
    });
    Ok(success(&task.await?))
}

fn task(job: &JobRecord, covered: bool) -> Value {
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
        "completed_at": seconds(job.ended_at).unwrap_or(0),
    });
    if let (Some(output), Some(url)) = (&job.output, job.output_url()) {
        let cover = format!("{}/media/{}/{COVER}", job.base_url, job.id);
        task["data"] = json!({
            "result_url": url,
            "cover_url": if covered { cover } else { String::new() },
            "duration_seconds": (output.seconds() * 1000.0).round() / 1000.0,
        });
    }
    if matches!(job.state, JobState::Failed | JobState::Cancelled) {
        let message = job.failure.as_ref().map_or("the task was cancelled", |failure| &failure.message);
        task["error"] = json!({"message": message});
    }
    task
}

async fn begin_upload(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let missing = |name: &str| FieldError { field: name.to_string(), problem: "is missing".to_string() };
    let name = body["filename"].as_str().ok_or_else(|| missing("filename"))?;
    let kind = body["content_type"].as_str().ok_or_else(|| missing("content_type"))?;
    if body["file_size"].as_u64().is_some_and(|size| size > app.config.max_upload) {
        return Err(Problem::TooLarge);
    }
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(success(&json!({"sign_url": slot.url, "asset_url": slot.url})))
}
