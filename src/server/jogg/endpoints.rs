//! JoggAI's webhook endpoints: registered once, told of the end of every task of their owner that they want to know.
//!
//! JoggAI documents no event for lip sync: its end is told as that of a video of no particular kind.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{success, task};
use crate::request::{FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::{Endpoint, JobRecord, State as JobState, now};
use crate::server::problem::Problem;
use crate::server::reply;
use crate::server::signing::{hmac_hex, new_secret};
use crate::server::webhooks::Message;

/// Endpoints of one key.
const AT_MOST: usize = 20;
/// All that JoggAI can tell. All may be asked for; only videos are made here.
const EVENTS: [&str; 18] = [
    Endpoint::SUCCEEDED,
    Endpoint::FAILED,
    "create_avatar_success",
    "create_avatar_failed",
    "generated_product_video_success",
    "generated_product_video_failed",
    "generated_avatar_video_success",
    "generated_avatar_video_failed",
    "generated_template_video_success",
    "generated_template_video_failed",
    "generated_translate_video_success",
    "generated_translate_video_failed",
    "generated_photo_avatar_success",
    "generated_photo_avatar_failed",
    "generated_product_avatar_success",
    "generated_product_avatar_failed",
    "generated_script_success",
    "generated_script_failed",
];

pub async fn events(_: Caller) -> Response {
    success(&json!({"events": EVENTS}))
}

pub async fn add(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let Settings { url, events, enabled } = settings(&app, &body)?;
    let endpoint = Endpoint {
        id: format!("wh_{}", Uuid::new_v4().simple()),
        owner: caller.owner,
        url,
        secret: new_secret()?,
        enabled,
        events,
        created_at: now(),
    };
    let told = told(&endpoint);
    match app.blocking(move |app| Ok(app.jobs.store.insert_endpoint(&endpoint, AT_MOST)?)).await? {
        true => Ok(success(&told)),
        false => Err(Problem::Conflict("there are as many endpoints as there may be")),
    }
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    let endpoints = app.blocking(move |app| Ok(app.jobs.store.endpoints(&caller.owner)?)).await?;
    let endpoints: Vec<Value> = endpoints.iter().map(told).collect();
    Ok(success(&json!({"endpoints": endpoints})))
}

pub async fn change(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let Settings { url, events, enabled } = settings(&app, &body)?;
    let changed = app.blocking(move |app| {
        let known = own(app.jobs.store.endpoint(&id)?, &caller)?;
        let endpoint = Endpoint { url, events, enabled, ..known };
        app.jobs.store.update_endpoint(&endpoint)?;
        Ok(told(&endpoint))
    });
    Ok(success(&changed.await?))
}

pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    reply::Path(id): reply::Path<String>,
) -> Result<Response, Problem> {
    let removed = app.blocking(move |app| {
        let endpoint = own(app.jobs.store.endpoint(&id)?, &caller)?;
        Ok(app.jobs.store.remove_endpoint(&endpoint.id)?)
    });
    removed.await?;
    Ok(success(&json!({})))
}

/// Other people's endpoints do not exist.
fn own(endpoint: Option<Endpoint>, caller: &Caller) -> Result<Endpoint, Problem> {
    endpoint.filter(|endpoint| endpoint.owner == caller.owner).ok_or(Problem::NotFound("endpoint"))
}

/// What a client says of its endpoint.
struct Settings {
    url: String,
    events: Vec<String>,
    enabled: bool,
}

fn settings(app: &App, body: &Value) -> Result<Settings, FieldError> {
    let fields = Fields::new(body)?;
    let wrong =
        |name: &str, problem: &str| FieldError { field: name.to_string(), problem: problem.to_string() };
    let url = app.webhook("url", &fields.url("url")?, None)?.url;
    let events = fields.required("events", fields.get("events"))?;
    let events = events.as_array().ok_or_else(|| wrong("events", "must be an array of events"))?;
    let events = events.iter().map(|event| EVENTS.into_iter().find(|name| event.as_str() == Some(name)));
    let events: Option<Vec<String>> = events.map(|event| event.map(str::to_string)).collect();
    let events =
        events.ok_or_else(|| wrong("events", "must be an array of events; `GET /v2/events` lists them"))?;
    if events.is_empty() {
        return Err(wrong("events", "is empty"));
    }
    let enabled = match fields.string("status")? {
        None | Some("enabled") => true,
        Some("disabled") => false,
        Some(_) => return Err(wrong("status", "must be `enabled` or `disabled`")),
    };
    Ok(Settings { url, events, enabled })
}

fn told(endpoint: &Endpoint) -> Value {
    json!({
        "endpoint_id": endpoint.id,
        "url": endpoint.url,
        "secret": endpoint.secret,
        "status": if endpoint.enabled { "enabled" } else { "disabled" },
        "events": endpoint.events,
        "username": "local",
        "created_at": endpoint.created_at / 1000,
    })
}

/// The message of a task's end: the task itself, and the names that JoggAI's videos have for its parts.
pub fn webhook(app: &App, job: &JobRecord, endpoint: &Endpoint) -> Message {
    let event = if job.state == JobState::Completed { Endpoint::SUCCEEDED } else { Endpoint::FAILED };
    let mut data = task(job, app.jobs.files.cover(&job.id).is_file());
    data["video_id"] = job.id.as_str().into();
    data["video_url"] = job.output_url().into();
    data["duration"] = data["data"]["duration_seconds"].clone();
    let body = json!({
        "event_id": format!("{}:{}", job.id, endpoint.id),
        "event": event,
        "timestamp": job.ended_at.unwrap_or_default() / 1000,
        "data": data,
    });
    let message = Message::new(&body);
    let signature = hmac_hex(endpoint.secret.as_bytes(), &message.body);
    message.with("x-webhook-event", event).with("x-webhook-signature", &signature)
}
