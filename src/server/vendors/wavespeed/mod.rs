//! wavespeed's `bytedance/latentsync` and `sync/lipsync-1.9.0-beta`, whose request bodies differ: submit,
//! result, sync mode, webhook. Uploads and the list of predictions have their own files.

mod routes;
mod predictions;
mod uploads;

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::request::{Api, Fields, Request};
use crate::server::app::{App, Caller};
use crate::server::jobs::{JobRecord, NewJob, State as JobState, now};
use crate::server::problem::Problem;
use crate::server::reply::{self, iso_time};
use crate::server::routes::Routes;
use crate::server::signing::Signer;
use crate::server::vendor::{EndedJob, Message, Vendor, WebhookPolicy};

/// wavespeed's code for a request in sync mode that timed out.
const SYNC_TIMED_OUT: u64 = 5004;

const LATENTSYNC: &str = "bytedance/latentsync";
const LIPSYNC: &str = "sync/lipsync-1.9.0-beta";
/// The request formats of the two models.
const APIS: [Api; 2] = [Api::WavespeedLatentsync, Api::WavespeedLipsync];
/// The name of the secret that signs the webhooks.
const SECRET: &str = "wavespeed";
/// What a key's secret begins with in wavespeed's notation.
const SECRET_PREFIX: &str = "whsec_";

pub struct Wavespeed;

impl Vendor for Wavespeed {
    fn name(&self) -> &'static str {
        routes::TAG
    }

    fn apis(&self) -> &'static [Api] {
        &APIS
    }

    fn routes(&self) -> Routes {
        routes::routes()
    }

    fn schemas(&self, max_upload: u64) -> Value {
        routes::schemas(max_upload)
    }

    fn webhook_operation(&self) -> Value {
        routes::webhook_operation()
    }

    fn error_response(&self, problem: &Problem) -> Response {
        let status = problem.status();
        reply::json(status, &json!({"code": status.as_u16(), "message": problem.message()}))
    }

    fn webhook_policy(&self) -> WebhookPolicy {
        WebhookPolicy { timeout: Duration::from_secs(15), retry_seconds: &[30, 120, 450] }
    }

    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message> {
        Some(webhook_message(ended.signer, ended.job))
    }

    fn secret_name(&self) -> Option<&'static str> {
        Some(SECRET)
    }
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

/// Submits a job. The documentation has the webhook in the body, the clients send it in the query; the query
/// wins.
async fn submit(
    api: Api,
    State(app): State<App>,
    caller: Caller,
    query: reply::Query,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let request = Request::from_json(&body, Some(api))?;
    let fields = Fields::new(&body)?;
    let sync_mode = fields.flag("enable_sync_mode")?;
    let named = |field: &str, url: Option<&str>| {
        let url = url.filter(|url| !url.is_empty());
        url.map(|url| app.webhook(field, url, None)).transpose()
    };
    let in_body = named("webhook_url", fields.string("webhook_url")?)?;
    let webhook = named("webhook", query.get("webhook"))?.or(in_body);
    let id = app.submit(NewJob { webhook, ..caller.job(request, &body) }).await?;
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
    match APIS.contains(&job.api) {
        true => Ok(success(&prediction(&job))),
        false => Err(Problem::NotFound("prediction")),
    }
}

/// A prediction: the `data` of the response envelope.
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

/// The secret that webhooks are signed with.
async fn secret(State(app): State<App>, caller: Caller) -> Response {
    let secret = format!("{SECRET_PREFIX}{}", app.signer.secret_of(SECRET, &caller.owner));
    success(&json!({"secret": secret}))
}

/// The model's name in paths and in responses.
fn model(api: Api) -> &'static str {
    match api {
        Api::WavespeedLipsync => LIPSYNC,
        _ => LATENTSYNC,
    }
}

/// The webhook message: the prediction and its input, signed with the secret's text without
/// [`SECRET_PREFIX`].
fn webhook_message(signer: &Signer, job: &JobRecord) -> Message {
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
    let signature = format!("v3,{}", signer.sign(SECRET, &job.owner, &signed));
    message.with("webhook-id", &job.id).with("webhook-timestamp", &time).with("webhook-signature", &signature)
}
