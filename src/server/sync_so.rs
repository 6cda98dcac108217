//! sync.so's own `v2/generate`, the schema behind wavespeed's `sync/lipsync-1.9.0-beta`.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Multipart, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::app::{App, Caller, Order};
use super::jobs::{Blame, JobRecord, State as JobState, Webhook, now};
use super::media;
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::webhooks::Message;
use crate::request::{Api, FieldError, Request};

/// Generations in a list.
const LISTED: u32 = 100;

pub fn router() -> Router<App> {
    Router::new()
        .route("/v2/generate", post(create).layer(DefaultBodyLimit::disable()))
        .route("/v2/generate/{id}", get(show))
        .route("/v2/generations", get(list))
        .route("/v2/analyze/cost", post(cost))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    let status = problem.status();
    let error = status.canonical_reason().unwrap_or_default();
    let body = json!({"message": problem.message(), "statusCode": status.as_u16(), "error": error});
    reply::json(status, &body)
}

/// A generation, from JSON or from a form with the files in it.
async fn create(State(app): State<App>, caller: Caller, request: HttpRequest) -> Result<Response, Problem> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let body = match kind.starts_with("multipart/form-data") {
        true => {
            let form = reply::form(request, &()).await?;
            from_form(&app, &caller, form).await?
        }
        false => read_json(&app, request).await?,
    };
    let id = accept(&app, &caller, body).await?;
    let job = app.job(&caller, &id, "generation").await?;
    Ok(reply::json(StatusCode::CREATED, &generation(&job.as_accepted())))
}

/// The route takes bodies of any length, for the files; JSON has its limit all the same.
async fn read_json(app: &App, request: HttpRequest) -> Result<Value, Problem> {
    let bytes = axum::body::to_bytes(request.into_body(), app.config.max_body).await;
    let bytes = bytes.map_err(|_| Problem::TooLarge)?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::Body(format!("the body is not JSON: {error}")))
}

/// The fields of a form: files become uploads, everything else is JSON or text.
async fn from_form(app: &App, caller: &Caller, mut form: Multipart) -> Result<Value, Problem> {
    let broken = |error: axum::extract::multipart::MultipartError| Problem::Body(error.body_text());
    let mut fields = Map::new();
    let mut inputs = Vec::new();
    while let Some(part) = form.next_field().await.map_err(broken)? {
        let name = part.name().unwrap_or_default().to_string();
        if matches!(name.as_str(), "video" | "audio") {
            let kind = part.content_type().unwrap_or("application/octet-stream").to_string();
            let file_name = part.file_name().unwrap_or(&name).to_string();
            let slot = media::reserve(app, caller, &file_name, &kind).await?;
            media::fill(app, &slot.id, part).await?;
            inputs.push(json!({"type": name, "url": slot.url}));
        } else {
            let text = part.text().await.map_err(broken)?;
            let value = match name.as_str() {
                "input" | "options" | "segments" => serde_json::from_str(&text).map_err(|error| {
                    FieldError { field: name.clone(), problem: format!("is not JSON: {error}") }
                })?,
                _ => Value::String(text),
            };
            fields.insert(name, value);
        }
    }
    match fields.remove("input") {
        Some(Value::Array(named)) => inputs.extend(named),
        Some(one) => inputs.push(one),
        None => {}
    }
    fields.insert("input".to_string(), inputs.into());
    Ok(Value::Object(fields))
}

async fn accept(app: &App, caller: &Caller, body: Value) -> Result<String, Problem> {
    let wrong =
        |field: &str, problem: &str| FieldError { field: field.to_string(), problem: problem.to_string() };
    if !body["model"].is_string() {
        return Err(wrong("model", "must be a string").into());
    }
    Request::from_json(&body, Some(Api::SyncSo))?;
    let webhook = match &body["webhookUrl"] {
        Value::Null => None,
        Value::String(url) if url.is_empty() => None,
        Value::String(url) => Some(Webhook { url: url.clone(), secret: None }),
        _ => return Err(wrong("webhookUrl", "must be a string").into()),
    };
    app.submit(caller, Order { api: Api::SyncSo, body, webhook, at_once: None }).await
}

async fn show(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let job = app.job(&caller, &id, "generation").await?;
    match job.api {
        Api::SyncSo => Ok(reply::json(StatusCode::OK, &generation(&job))),
        _ => Err(Problem::NotFound("generation")),
    }
}

#[derive(Deserialize)]
struct ListQuery {
    status: Option<String>,
}

async fn list(
    State(app): State<App>,
    caller: Caller,
    reply::Query(query): reply::Query<ListQuery>,
) -> Result<Response, Problem> {
    let Caller { owner, base_url } = caller;
    let jobs = app.blocking(move |app| Ok(app.jobs.store.of_owner(Api::SyncSo, &owner, LISTED)?)).await?;
    let here = |job: JobRecord| JobRecord { base_url: base_url.clone(), ..job };
    let jobs: Vec<JobRecord> = jobs.into_iter().map(here).collect();
    let wanted = |job: &&JobRecord| query.status.as_deref().is_none_or(|wanted| status(job) == wanted);
    let generations: Vec<Value> = jobs.iter().filter(wanted).map(generation).collect();
    Ok(reply::json(StatusCode::OK, &generations.into()))
}

/// What a generation would cost: nothing, here.
async fn cost(_: Caller, reply::Body(body): reply::Body) -> Result<Response, Problem> {
    Request::from_json(&body, Some(Api::SyncSo))?;
    let estimate = json!([{"estimatedFrameCount": 0, "estimatedGenerationCost": 0}]);
    Ok(reply::json(StatusCode::OK, &estimate))
}

fn status(job: &JobRecord) -> &'static str {
    match (job.state, job.failure.as_ref().map(|failure| failure.blame)) {
        (JobState::Queued, _) => "PENDING",
        (JobState::Running, _) => "PROCESSING",
        (JobState::Completed, _) => "COMPLETED",
        (JobState::Failed, Some(Blame::Request)) => "REJECTED",
        (JobState::Failed, _) => "FAILED",
        (JobState::Cancelled, _) => "CANCELED",
    }
}

fn generation(job: &JobRecord) -> Value {
    let error_code = job.failure.as_ref().map(|failure| match failure.blame {
        Blame::Video => "generation_input_video_invalid",
        Blame::Audio => "generation_input_audio_invalid",
        Blame::Request => "generation_input_validation_failed",
        Blame::Server => "generation_pipeline_failed",
    });
    json!({
        "id": job.id,
        "createdAt": iso_time(job.created_at),
        "status": status(job),
        "model": job.body["model"],
        "input": job.body["input"],
        "options": job.body["options"],
        "webhookUrl": job.body["webhookUrl"],
        "outputUrl": job.output_url(),
        "outputDuration": job.output.as_ref().map(|output| output.seconds()),
        "segmentOutputUrl": null,
        "error": job.failure.as_ref().map(|failure| &failure.message),
        "error_code": error_code,
    })
}

/// The message that ends a generation: the generation itself, signed.
pub fn webhook(app: &App, job: &JobRecord) -> Message {
    let message = Message::new(&generation(job));
    let time = now() / 1000;
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(&message.body);
    let signature = format!("t={time},v1={}", app.signer.sync_so(&signed));
    message.with("sync-signature", &signature)
}
