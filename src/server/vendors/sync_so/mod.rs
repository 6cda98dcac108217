//! sync.so's own `v2/generate`, the schema behind wavespeed's `sync/lipsync-1.9.0-beta`.

mod form;
mod routes;

use std::time::Duration;

use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde_json::{Value, json};

use crate::request::{Api, FieldError, Fields, Request};
use crate::server::app::{App, Caller};
use crate::server::jobs::{Blame, Filter, JobRecord, NewJob, State as JobState, Webhook, now};
use crate::server::media;
use crate::server::problem::{Problem, body_error};
use crate::server::reply::{self, iso_time};
use crate::server::routes::Routes;
use crate::server::signing::Signer;
use crate::server::vendor::{EndedJob, Message, Vendor, WebhookPolicy};

/// Length of the list of generations.
const MAX_LISTED: u32 = 100;
/// The name of the secret that signs the webhooks.
const SECRET: &str = "sync.so";

pub struct SyncSo;

impl Vendor for SyncSo {
    fn name(&self) -> &'static str {
        routes::TAG
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::SyncSo]
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
        let status = problem.status();
        let error = status.canonical_reason().unwrap_or_default();
        let body = json!({"message": problem.message(), "statusCode": status.as_u16(), "error": error});
        reply::json(status, &body)
    }

    fn webhook_policy(&self) -> WebhookPolicy {
        WebhookPolicy { timeout: Duration::from_secs(15), retry_seconds: &[30, 120, 450] }
    }

    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message> {
        Some(webhook_message(ended.signer, ended.job))
    }

    fn output_name(&self, body: &Value) -> Option<String> {
        let name = body["outputFileName"].as_str().filter(|name| !name.is_empty())?;
        Some(format!("{name}.mp4"))
    }

    fn secret_name(&self) -> Option<&'static str> {
        Some(SECRET)
    }
}

/// Creates a generation from JSON, or from a multipart form with the files in it.
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

/// Reads a JSON body. The route itself has no body limit, because of the multipart files.
async fn read_json(app: &App, request: HttpRequest) -> Result<Value, Problem> {
    let bytes = axum::body::to_bytes(request.into_body(), app.config.max_body).await;
    let bytes = bytes.map_err(|error| match body_error(&error) {
        Problem::TooSlow => Problem::TooSlow,
        _ => Problem::TooLarge,
    })?;
    reply::json_of(&bytes)
}

async fn accept(app: &App, caller: &Caller, body: Value) -> Result<String, Problem> {
    check_model(&body)?;
    let request = Request::from_json(&body, Some(Api::SyncSo))?;
    let webhook = webhook_of(app, &body)?;
    app.submit(NewJob { webhook, ..caller.job(request, &body) }).await
}

fn webhook_of(app: &App, body: &Value) -> Result<Option<Webhook>, FieldError> {
    let url = Fields::new(body)?.string("webhookUrl")?.filter(|url| !url.is_empty());
    url.map(|url| app.webhook("webhookUrl", url, None)).transpose()
}

/// A model must be named; every name stands for the model that is loaded.
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
            limit: MAX_LISTED,
            offset: 0,
        };
        Ok(app.jobs.store.page(&filter)?)
    });
    let (_, jobs) = page.await?;
    let jobs: Vec<JobRecord> = jobs.into_iter().map(|job| job.with_base_url(&base_url)).collect();
    let matches = |job: &&JobRecord| query.get("status").is_none_or(|wanted| status(job) == wanted);
    let generations: Vec<Value> = jobs.iter().filter(matches).map(generation).collect();
    Ok(reply::json(StatusCode::OK, &generations.into()))
}

/// The estimated cost of a generation, which is 0 here.
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

/// The secret that webhooks are signed with. sync.so itself shows it in its dashboard.
async fn secret(State(app): State<App>, caller: Caller) -> Response {
    reply::json(StatusCode::OK, &json!({"secret": app.signer.secret_of(SECRET, &caller.owner)}))
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
        Blame::Server | Blame::StartTimeout => "generation_pipeline_failed",
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

/// The webhook message: the generation, signed.
fn webhook_message(signer: &Signer, job: &JobRecord) -> Message {
    let message = Message::new(&generation(job));
    let time = now() / 1000;
    let mut signed = format!("{time}.").into_bytes();
    signed.extend_from_slice(&message.body);
    let signature = format!("t={time},v1={}", signer.sign(SECRET, &job.owner, &signed));
    message.with("sync-signature", &signature)
}
