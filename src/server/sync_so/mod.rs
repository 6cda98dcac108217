//! sync.so's own `v2/generate`, the schema behind wavespeed's `sync/lipsync-1.9.0-beta`.

mod form;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use serde_json::{Value, json};

use super::app::{App, Caller, Order};
use super::jobs::{Blame, Filter, JobRecord, State as JobState, Webhook, now};
use super::media;
use super::problem::{Problem, answer_with, unreadable};
use super::reply::{self, iso_time};
use super::webhooks::Message;
use crate::request::{Api, FieldError, Fields, Request};

/// Generations in a list.
const LISTED: u32 = 100;

pub fn router() -> Router<App> {
    Router::new()
        .route("/v2/generate", post(create).layer(DefaultBodyLimit::disable()))
        .route("/v2/generate/{id}", get(show))
        .route("/v2/generations", get(list))
        .route("/v2/analyze/cost", post(cost))
        .route("/v2/webhook/secret", get(secret))
        .route("/v2/{*path}", any(|_: Caller| async { Problem::NotFound("path") }))
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
    let (body, files) = match kind.starts_with("multipart/form-data") {
        true => form::read(&app, &caller, reply::form(request, &()).await?).await?,
        false => (read_json(&app, request).await?, Vec::new()),
    };
    let accepted = accept(&app, &caller, body).await;
    if accepted.is_err() {
        media::discard(&app, files).await;
    }
    let job = app.job(&caller, &accepted?, "generation").await?;
    Ok(reply::json(StatusCode::CREATED, &generation(&job.as_accepted())))
}

/// The route takes bodies of any length, for the files; JSON has its limit all the same.
async fn read_json(app: &App, request: HttpRequest) -> Result<Value, Problem> {
    let bytes = axum::body::to_bytes(request.into_body(), app.config.max_body).await;
    let bytes = bytes.map_err(|error| match unreadable(&error) {
        Problem::TooSlow => Problem::TooSlow,
        _ => Problem::TooLarge,
    })?;
    reply::json_of(&bytes)
}

async fn accept(app: &App, caller: &Caller, body: Value) -> Result<String, Problem> {
    check_model(&body)?;
    Request::from_json(&body, Some(Api::SyncSo))?;
    let webhook = webhook_of(app, &body)?;
    app.submit(caller, Order { webhook, ..Order::new(Api::SyncSo, body) }).await
}

fn webhook_of(app: &App, body: &Value) -> Result<Option<Webhook>, FieldError> {
    let url = Fields::new(body)?.string("webhookUrl")?.filter(|url| !url.is_empty());
    url.map(|url| app.webhook("webhookUrl", url, None)).transpose()
}

/// Whatever the model is called, it is the one that is loaded here.
fn check_model(body: &Value) -> Result<(), FieldError> {
    let fields = Fields::new(body)?;
    fields.required("model", fields.string("model")?).map(|_| ())
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

async fn list(State(app): State<App>, caller: Caller, query: reply::Query) -> Result<Response, Problem> {
    let Caller { owner, base_url } = caller;
    let page = app.blocking(move |app| {
        let filter = Filter {
            owner: &owner,
            apis: &[Api::SyncSo],
            states: &JobState::ALL,
            created: (0, i64::MAX),
            limit: LISTED,
            offset: 0,
        };
        Ok(app.jobs.store.page(&filter)?)
    });
    let (_, jobs) = page.await?;
    let here = |job: JobRecord| JobRecord { base_url: base_url.clone(), ..job };
    let jobs: Vec<JobRecord> = jobs.into_iter().map(here).collect();
    let wanted = |job: &&JobRecord| query.get("status").is_none_or(|wanted| status(job) == wanted);
    let generations: Vec<Value> = jobs.iter().filter(wanted).map(generation).collect();
    Ok(reply::json(StatusCode::OK, &generations.into()))
}

/// What a generation would cost: nothing, here.
async fn cost(
    State(app): State<App>,
    _: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    check_model(&body)?;
    webhook_of(&app, &body)?;
    Request::from_json(&body, Some(Api::SyncSo))?;
    let estimate = json!([{"estimatedFrameCount": 0, "estimatedGenerationCost": 0}]);
    Ok(reply::json(StatusCode::OK, &estimate))
}

/// What webhooks are signed with: sync.so shows it in its dashboard.
async fn secret(State(app): State<App>, caller: Caller) -> Response {
    reply::json(StatusCode::OK, &json!({"secret": app.signer.sync_so_secret(&caller.owner)}))
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
        Blame::Video if failure.fetching => "generation_input_video_inaccessible",
        Blame::Audio if failure.fetching => "generation_input_audio_inaccessible",
        Blame::Video => "generation_input_video_invalid",
        Blame::Audio => "generation_input_audio_invalid",
        Blame::Request => "generation_input_validation_failed",
        Blame::Server | Blame::Patience => "generation_pipeline_failed",
    });
    json!({
        "id": job.id,
        "createdAt": iso_time(job.created_at),
        "status": status(job),
        "model": job.body["model"],
        "input": job.body["input"],
        "options": job.body["options"],
        "outputFileName": job.body["outputFileName"],
        "webhookUrl": job.body["webhookUrl"],
        "outputUrl": job.output_url(),
        "outputDuration": job.output.as_ref().map(|output| output.seconds()),
        "segmentOutputUrl": null,
        "error": job.failure.as_ref().map(|failure| &failure.message),
        "error_code": error_code,
        "errorCode": error_code,
    })
}

/// The message that ends a generation: the generation itself, signed.
pub fn webhook(app: &App, job: &JobRecord) -> Message {
    let message = Message::new(&generation(job));
    let time = now() / 1000;
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(&message.body);
    let signature = format!("t={time},v1={}", app.signer.sync_so(&job.owner, &signed));
    message.with("sync-signature", &signature)
}
