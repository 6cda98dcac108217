//! wavespeed's `bytedance/latentsync` and `sync/lipsync-1.9.0-beta`, which differ in what a body says, and the
//! uploads and the webhook secret beside them.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::{App, Caller, Order};
use super::jobs::{JobRecord, State as JobState, Webhook, now};
use super::media;
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::webhooks::Message;
use crate::request::{Api, FieldError, Request};

/// How long a request in sync mode stays open.
const SYNC_MODE: Duration = Duration::from_secs(600);
/// wavespeed's code for a request in sync mode whose result was not there in time.
const SYNC_TIMED_OUT: u64 = 5004;

pub fn router() -> Router<App> {
    Router::new()
        .route("/api/v3/bytedance/latentsync", post(submit_latentsync))
        .route("/api/v3/sync/lipsync-1.9.0-beta", post(submit_lipsync))
        .route("/api/v3/predictions/{id}", get(show))
        .route("/api/v3/predictions/{id}/result", get(show))
        .route("/api/v3/media/uploads", post(begin_upload))
        .route("/api/v3/media/upload/binary", post(upload).layer(DefaultBodyLimit::disable()))
        .route("/api/v3/webhook/secret", get(secret))
        .route("/api/v3/{*model}", any(|| async { Problem::NotFound("model") }))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    let status = problem.status();
    reply::json(status, &json!({"code": status.as_u16(), "message": problem.message()}))
}

fn success(data: &Value) -> Response {
    reply::json(StatusCode::OK, &json!({"code": 200, "message": "success", "data": data}))
}

#[derive(Deserialize)]
struct SubmitQuery {
    webhook: Option<String>,
}

async fn submit_latentsync(
    app: State<App>,
    caller: Caller,
    query: reply::Query<SubmitQuery>,
    body: reply::Body,
) -> Result<Response, Problem> {
    submit(Api::WavespeedLatentsync, app, caller, query, body).await
}

async fn submit_lipsync(
    app: State<App>,
    caller: Caller,
    query: reply::Query<SubmitQuery>,
    body: reply::Body,
) -> Result<Response, Problem> {
    submit(Api::WavespeedLipsync, app, caller, query, body).await
}

/// The documents name the webhook in the body, the clients in the query.
async fn submit(
    api: Api,
    State(app): State<App>,
    caller: Caller,
    reply::Query(query): reply::Query<SubmitQuery>,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    Request::from_json(&body, Some(api))?;
    let sync_mode = match &body["enable_sync_mode"] {
        Value::Null => false,
        Value::Bool(sync_mode) => *sync_mode,
        _ => return Err(field("enable_sync_mode", "must be true or false").into()),
    };
    let in_body = match &body["webhook_url"] {
        Value::Null => None,
        Value::String(url) => Some(url.clone()),
        _ => return Err(field("webhook_url", "must be a string").into()),
    };
    let webhook = query.webhook.or(in_body).filter(|url| !url.is_empty());
    let webhook = webhook.map(|url| Webhook { url, secret: None });
    let id = app.submit(&caller, Order { api, body, webhook, at_once: None }).await?;
    if sync_mode {
        return Ok(match tokio::time::timeout(SYNC_MODE, app.wait(&caller, &id)).await {
            Ok(job) => success(&prediction(&job?)),
            Err(_) => sync_timed_out(&app.job(&caller, &id, "prediction").await?),
        });
    }
    let job = app.job(&caller, &id, "prediction").await?;
    Ok(success(&prediction(&job.as_accepted())))
}

fn sync_timed_out(job: &JobRecord) -> Response {
    let message = format!("Sync mode timed out after {} s", SYNC_MODE.as_secs());
    let mut data = prediction(job);
    data["error"] = message.clone().into();
    data["code"] = SYNC_TIMED_OUT.into();
    reply::json(StatusCode::OK, &json!({"code": SYNC_TIMED_OUT, "message": message, "data": data}))
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "prediction").await?;
    match job.api {
        Api::WavespeedLatentsync | Api::WavespeedLipsync => Ok(success(&prediction(&job))),
        _ => Err(Problem::NotFound("prediction")),
    }
}

/// What the envelope holds.
fn prediction(job: &JobRecord) -> Value {
    let outputs: Vec<String> = job.output_url().into_iter().collect();
    let milliseconds = job.run_seconds().unwrap_or(0.0) * 1000.0;
    json!({
        "id": job.id,
        "model": match job.api {
            Api::WavespeedLipsync => "sync/lipsync-1.9.0-beta",
            _ => "bytedance/latentsync",
        },
        "has_nsfw_contents": vec![false; outputs.len()],
        "outputs": outputs,
        "urls": {"get": format!("{}/api/v3/predictions/{}/result", job.base_url, job.id)},
        "status": match job.state {
            JobState::Queued => "created",
            JobState::Running => "processing",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        },
        "created_at": iso_time(job.created_at),
        "error": job.failure.as_ref().map_or("", |failure| &failure.message),
        "timings": {"inference": milliseconds as u64},
    })
}

async fn begin_upload(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let name = body["filename"].as_str().ok_or_else(|| field("filename", "must be a string"))?;
    let size = body["size"].as_u64().ok_or_else(|| field("size", "must be a number of bytes"))?;
    if size > app.config.max_upload {
        return Err(Problem::TooLarge);
    }
    let kind = body["content_type"].as_str().unwrap_or("application/octet-stream");
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(success(&json!({
        "upload": {"method": "PUT", "url": slot.url, "headers": {"Content-Type": kind}},
        "download_url": slot.url,
    })))
}

/// The older upload: the file as the form's field `file`.
async fn upload(State(app): State<App>, caller: Caller, request: HttpRequest) -> Result<Response, Problem> {
    let mut form = reply::form(request, &()).await?;
    let broken = |error: axum::extract::multipart::MultipartError| Problem::Body(error.body_text());
    while let Some(part) = form.next_field().await.map_err(broken)? {
        if part.name() != Some("file") {
            continue;
        }
        let name = part.file_name().unwrap_or("upload.bin").to_string();
        let kind = part.content_type().unwrap_or("application/octet-stream").to_string();
        let slot = media::reserve(&app, &caller, &name, &kind).await?;
        let size = media::fill(&app, &slot.id, part).await?;
        return Ok(success(&json!({
            "type": kind.split('/').next(), "download_url": slot.url, "filename": name, "size": size,
        })));
    }
    Err(field("file", "is missing").into())
}

async fn secret(State(app): State<App>, _: Caller) -> Response {
    let secret = app.signer.wavespeed_secret();
    success(&json!({"secret": secret}))
}

fn field(name: &str, problem: &str) -> FieldError {
    FieldError { field: name.to_string(), problem: problem.to_string() }
}

/// The message that ends a prediction: the envelope's data, signed.
pub fn webhook(app: &App, job: &JobRecord) -> Message {
    let message = Message::new(&prediction(job));
    let time = (now() / 1000).to_string();
    let mut signed = format!("{}.{time}.", job.id).into_bytes();
    signed.extend_from_slice(&message.body);
    let signature = format!("v3,{}", app.signer.wavespeed(&signed));
    message.with("webhook-id", &job.id).with("webhook-timestamp", &time).with("webhook-signature", &signature)
}
