//! JoggAI's `open/v2` lip sync: create, get, find, upload, and the endpoints that are told of a task's end. What goes
//! wrong rides in `code`, below HTTP 200; times are seconds since 1970.

mod endpoints;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post, put};
use serde_json::{Value, json};

use super::app::{App, Caller, Order};
use super::jobs::files::COVER;
use super::jobs::{JobRecord, State as JobState};
use super::media;
use super::problem::{Problem, answer_with};
use super::reply;
use crate::request::{Api, Fields, Request};
pub use endpoints::webhook;

const NOT_FOUND: u32 = 10104;
const BAD_KEY: u32 = 10105;
const PARAMETER: u32 = 40000;
const SYSTEM: u32 = 50000;

pub fn router() -> Router<App> {
    let endpoints = Router::new()
        .route("/endpoint", post(endpoints::add))
        .route("/endpoint/{id}", put(endpoints::change).delete(endpoints::remove))
        .route("/endpoints", get(endpoints::list))
        .route("/events", get(endpoints::events));
    Router::new()
        .route("/open/v2/create_lip_sync_video", post(create))
        .route("/v2/create_lip_sync_video", post(create))
        .route("/open/v2/lip_sync_video/{id}", get(show))
        .route("/v2/lip_sync_video/{id}", get(show))
        .route("/open/v2/lip_sync_video", get(find))
        .route("/v2/lip_sync_video", get(find))
        .route("/open/v2/upload/asset", post(begin_upload))
        .route("/v2/upload/asset", post(begin_upload))
        .nest("/open/v2", endpoints.clone())
        .nest("/v2", endpoints)
        .route("/open/v2/{*path}", any(|_: Caller| async { Problem::NotFound("path") }))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    let (status, code) = match problem {
        Problem::Unauthorised | Problem::Foreign(_) => (StatusCode::OK, BAD_KEY),
        Problem::NotFound(_) => (StatusCode::OK, NOT_FOUND),
        Problem::Body(_) | Problem::Field(_) | Problem::Conflict(_) | Problem::TooLarge => {
            (StatusCode::OK, PARAMETER)
        }
        Problem::Method => (problem.status(), PARAMETER),
        // No code of JoggAI's says "later", so that HTTP does. Clients repeat after this one.
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
    Request::from_json(&body, Some(Api::Jogg))?;
    let id = app.submit(&caller, Order::new(Api::Jogg, body)).await?;
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

/// The newest task with these inputs; what the query leaves out may be anything.
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
        "completed_at": seconds(job.ended_at),
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
    let fields = Fields::new(&body)?;
    let name = fields.required("filename", fields.string("filename")?)?;
    // The older of JoggAI's pages does not ask for a type.
    let kind = fields.string("content_type")?.unwrap_or("application/octet-stream");
    if fields.count("file_size", 0..=u64::MAX)?.is_some_and(|size| size > app.config.max_upload) {
        return Err(Problem::TooLarge);
    }
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(success(&json!({"sign_url": slot.url, "asset_url": slot.url})))
}
