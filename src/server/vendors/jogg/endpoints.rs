//! JoggAI's webhook endpoints: registered once, they receive the events of all their owner's tasks.
//!
//! JoggAI documents no event for lip sync; the events are those of a video of no particular kind.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{success, task};
use crate::request::{FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::{Endpoint, State as JobState, now};
use crate::server::problem::Problem;
use crate::server::reply;
use crate::server::signing::{hmac_hex, new_secret};
use crate::server::vendor::{EndedJob, Message};

/// Endpoints of one key.
const MAX_ENDPOINTS: usize = 20;
/// The event of a task that succeeded.
const SUCCEEDED: &str = "generated_video_success";
/// The event of a task that failed or was cancelled.
const FAILED: &str = "generated_video_failed";
/// Every event that JoggAI documents. All may be subscribed to; this server sends only the first two.
const EVENTS: [&str; 18] = [
    SUCCEEDED,
    FAILED,
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
    let body = endpoint_body(&endpoint);
    match app.blocking(move |app| Ok(app.jobs.store.insert_endpoint(&endpoint, MAX_ENDPOINTS)?)).await? {
        true => Ok(success(&body)),
        false => Err(Problem::Conflict("there are as many endpoints as there may be")),
    }
}

pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    let endpoints = app.blocking(move |app| Ok(app.jobs.store.endpoints(&caller.owner)?)).await?;
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint_body).collect();
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
        Ok(endpoint_body(&endpoint))
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

/// An endpoint of the caller's; those of others do not exist.
fn own(endpoint: Option<Endpoint>, caller: &Caller) -> Result<Endpoint, Problem> {
    endpoint.filter(|endpoint| endpoint.owner == caller.owner).ok_or(Problem::NotFound("endpoint"))
}

/// The body of a request that adds or changes an endpoint.
struct Settings {
    url: String,
    events: Vec<String>,
    enabled: bool,
}

fn settings(app: &App, body: &Value) -> Result<Settings, FieldError> {
    let fields = Fields::new(body)?;
    let url = app.webhook("url", &fields.url("url")?, None)?.url;
    let events = fields.required("events", fields.get("events"))?;
    let events = events.as_array().ok_or_else(|| FieldError::new("events", "must be an array of events"))?;
    let events = events.iter().map(|event| EVENTS.into_iter().find(|name| event.as_str() == Some(name)));
    let events: Option<Vec<String>> = events.map(|event| event.map(str::to_string)).collect();
    let events = events.ok_or_else(|| {
        FieldError::new("events", "must be an array of events; `GET /v2/events` lists them")
    })?;
    if events.is_empty() {
        return Err(FieldError::new("events", "is empty"));
    }
    let enabled = match fields.string("status")? {
        None | Some("enabled") => true,
        Some("disabled") => false,
        Some(_) => return Err(FieldError::new("status", "must be `enabled` or `disabled`")),
    };
    Ok(Settings { url, events, enabled })
}

fn endpoint_body(endpoint: &Endpoint) -> Value {
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

/// The event of a task that has ended in `state`.
pub fn event(state: JobState) -> &'static str {
    if state == JobState::Completed { SUCCEEDED } else { FAILED }
}

/// The webhook message: the task, and the fields that JoggAI's videos have.
pub fn webhook_message(ended: &EndedJob<'_>, endpoint: &Endpoint) -> Message {
    let job = ended.job;
    let event = event(job.state);
    let mut data = task(job, ended.files.cover(&job.id).is_file());
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
