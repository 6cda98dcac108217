//! wavespeed's `bytedance/latentsync` and `sync/lipsync-1.9.0-beta`, which differ in what a body says: submit, result,
//! sync mode, webhook. The uploads, and the list of predictions, have files of their own.

mod predictions;
mod uploads;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use serde_json::{Value, json};

use super::app::{App, Caller, Order};
use super::jobs::{JobRecord, State as JobState, now};
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::webhooks::Message;
use crate::request::{Api, Fields, Request};

/// wavespeed's code for a request in sync mode whose result was not there in time.
const SYNC_TIMED_OUT: u64 = 5004;

const LATENTSYNC: &str = "bytedance/latentsync";
const LIPSYNC: &str = "sync/lipsync-1.9.0-beta";

pub fn router() -> Router<App> {
    Router::new()
        .route("/api/v3/bytedance/latentsync", post(submit_latentsync))
        .route("/api/v3/sync/lipsync-1.9.0-beta", post(submit_lipsync))
        .route("/api/v3/predictions", get(predictions::list).post(predictions::search))
        .route("/api/v3/predictions/delete", post(predictions::delete))
        .route("/api/v3/predictions/{id}", get(show))
        .route("/api/v3/predictions/{id}/result", get(show))
        .route("/api/v3/media/uploads", post(uploads::begin))
        .route("/api/v3/media/upload/binary", post(uploads::form).layer(DefaultBodyLimit::disable()))
        .route("/api/v3/webhook/secret", get(secret))
        .route("/api/v3/{*model}", any(|_: Caller| async { Problem::NotFound("model") }))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    let status = problem.status();
    reply::json(status, &json!({"code": status.as_u16(), "message": problem.message()}))
}

fn success(data: &Value) -> Response {
    reply::json(StatusCode::OK, &json!({"code": 200, "message": "success", "data": data}))
}

async fn submit_latentsync(
    app: State<App>,
    caller: Caller,
    query: reply::Query,
    body: reply::Body,
) -> Result<Response, Problem> {
    submit(Api::WavespeedLatentsync, app, caller, query, body).await
}

async fn submit_lipsync(
    app: State<App>,
    caller: Caller,
    query: reply::Query,
    body: reply::Body,
) -> Result<Response, Problem> {
    submit(Api::WavespeedLipsync, app, caller, query, body).await
}

/// The documents name the webhook in the body, the clients in the query.
async fn submit(
    api: Api,
    State(app): State<App>,
    caller: Caller,
    query: reply::Query,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    Request::from_json(&body, Some(api))?;
    let fields = Fields::new(&body)?;
    let sync_mode = fields.flag("enable_sync_mode")?;
    let named = |field: &str, url: Option<&str>| {
        let url = url.filter(|url| !url.is_empty());
        url.map(|url| app.webhook(field, url, None)).transpose()
    };
    let in_body = named("webhook_url", fields.string("webhook_url")?)?;
    let webhook = named("webhook", query.get("webhook"))?.or(in_body);
    let id = app.submit(&caller, Order { webhook, ..Order::new(api, body) }).await?;
    if sync_mode {
        return Ok(match tokio::time::timeout(app.config.sync_mode, app.wait(&caller, &id)).await {
            Ok(job) => success(&prediction(&job?)),
            Err(_) => sync_timed_out(&app, &app.job(&caller, &id, "prediction").await?),
        });
    }
    let job = app.job(&caller, &id, "prediction").await?;
    Ok(success(&prediction(&job.as_accepted())))
}

fn sync_timed_out(app: &App, job: &JobRecord) -> Response {
    let message = format!("Sync mode timed out after {} s", app.config.sync_mode.as_secs());
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
        "model": model(job.api),
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
        "error": match (&job.failure, job.state) {
            (Some(failure), _) => &failure.message,
            (None, JobState::Cancelled) => "the prediction was cancelled",
            (None, _) => "",
        },
        "timings": {"inference": milliseconds as u64},
    })
}

async fn secret(State(app): State<App>, caller: Caller) -> Response {
    let secret = app.signer.wavespeed_secret(&caller.owner);
    success(&json!({"secret": secret}))
}

/// The model's name in paths and in answers.
fn model(api: Api) -> &'static str {
    match api {
        Api::WavespeedLipsync => LIPSYNC,
        _ => LATENTSYNC,
    }
}

/// The message that ends a prediction: the envelope's data with what the model was given, signed.
pub fn webhook(app: &App, job: &JobRecord) -> Message {
    let mut body = prediction(job);
    body["input"] = job.body.clone();
    if let Some(input) = body["input"].as_object_mut() {
        input.remove("webhook_url");
        input.remove("enable_sync_mode");
    }
    let message = Message::new(&body);
    let time = (now() / 1000).to_string();
    let mut signed = format!("{}.{time}.", job.id).into_bytes();
    signed.extend_from_slice(&message.body);
    let signature = format!("v3,{}", app.signer.wavespeed(&job.owner, &signed));
    message.with("webhook-id", &job.id).with("webhook-timestamp", &time).with("webhook-signature", &signature)
}
