//! fal's `fal-ai/latentsync`: the queue, the synchronous run, the storage, the proxy and the webhook.
//!
//! fal has a host for each; here they are one server's paths. `/fal/queue/…`, `/fal/run/…` and `/fal/rest/…`
//! say which host is meant. Without a prefix the path or the request's host does: a host that begins with
//! `queue.` is the queue, every other one runs at once, as `fal.run` does.

mod queue;
mod run;
mod stream;
mod storage;
mod proxy;
mod validate;

use axum::Router;
use axum::extract::State;
use axum::http::header::HOST;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post, put};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::jobs::{Blame, Failure, JobRecord, Level, Live, LogLine, State as JobState, now};
use super::problem::{Problem, answer_with};
use super::reply::{self, iso_time};
use super::webhooks::Message;

/// The model's name in URLs.
const APP: &str = "fal-ai/latentsync";
/// Whose webhooks these are: fal names its customer there.
const USER: &str = "local";

/// The whole API.
pub fn router() -> Router<App> {
    // The proxy calls what the others answer.
    let hosts = hosts();
    let proxy = hosts.clone();
    hosts
        .route(
            "/fal/proxy",
            any(move |State(app): State<App>, request| proxy::forward(app, proxy.clone(), request)),
        )
        .layer(map_response(answer_with(words)))
}

fn hosts() -> Router<App> {
    let requests = Router::new()
        .route("/fal-ai/{alias}/requests/{id}", get(queue::result))
        .route("/fal-ai/{alias}/requests/{id}/status", get(queue::status))
        .route("/fal-ai/{alias}/requests/{id}/status/stream", get(stream::status))
        .route("/fal-ai/{alias}/requests/{id}/cancel", put(queue::cancel));
    let at_once = Router::new()
        .route("/fal-ai/{alias}", post(run::run))
        .route("/fal-ai/{alias}/{*subpath}", post(run::run));
    let queued = Router::new()
        .route("/fal-ai/{alias}", post(queue::submit))
        .route("/fal-ai/{alias}/{*subpath}", post(queue::submit));
    let by_host = Router::new()
        .route("/fal-ai/{alias}", post(submit_or_run))
        .route("/fal-ai/{alias}/{*subpath}", post(submit_or_run));
    Router::new()
        .nest("/fal/queue", queued.merge(requests.clone()))
        .nest("/fal/run", at_once)
        .nest("/fal/rest", storage::router())
        .merge(by_host.merge(requests))
        .merge(storage::router())
        .route("/.well-known/jwks.json", get(jwks))
}

async fn jwks(State(app): State<App>) -> Response {
    reply::json(StatusCode::OK, &app.signer.jwks())
}

/// `POST /fal-ai/latentsync`: `fal.run` and `queue.fal.run` have the same path.
async fn submit_or_run(
    app: State<App>,
    name: AppName,
    caller: super::app::Caller,
    query: reply::Query<SubmitQuery>,
    headers: HeaderMap,
    body: reply::Body,
) -> Result<Response, Problem> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.starts_with("queue.") || query.0.fal_webhook.is_some() {
        true => queue::submit(app, name, caller, query, body).await,
        false => run::run(app, name, caller, headers, body).await,
    }
}

#[derive(Deserialize)]
struct SubmitQuery {
    fal_webhook: Option<String>,
}

/// The model that a path names; there is one.
struct AppName;

impl axum::extract::FromRequestParts<App> for AppName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, app: &App) -> Result<Self, Problem> {
        use axum::extract::RawPathParams;
        let parameters = RawPathParams::from_request_parts(parts, app).await;
        let parameters = parameters.map_err(|_| Problem::NotFound("application"))?;
        let alias = parameters.iter().find(|(name, _)| *name == "alias").map(|(_, alias)| alias);
        match alias == Some("latentsync") {
            true => Ok(AppName),
            false => Err(Problem::NotFound("application")),
        }
    }
}

/// fal's words for a problem: `detail`, and for some a type that its clients know.
fn words(problem: &Problem) -> Response {
    let (status, kind) = match problem {
        Problem::Body(error) => return queue::invalid(&[validate::not_json(error)]),
        Problem::Field(error) => return queue::invalid(&[validate::of_field(error)]),
        Problem::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, None),
        Problem::Server(_) => (StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error")),
        Problem::Conflict(_) => (StatusCode::BAD_REQUEST, Some("bad_request")),
        other => (other.status(), None),
    };
    infra_error(status, &problem.message(), kind)
}

/// An error that is not about the request's fields.
fn infra_error(status: StatusCode, detail: &str, kind: Option<&'static str>) -> Response {
    let mut body = json!({"detail": detail});
    if let Some(kind) = kind {
        body["error_type"] = kind.into();
    }
    let mut response = reply::json(status, &body);
    if let Some(kind) = kind {
        response.headers_mut().insert("x-fal-error-type", HeaderValue::from_static(kind));
    }
    let retryable = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let retryable = HeaderValue::from_static(if retryable { "true" } else { "false" });
    response.headers_mut().insert("x-fal-retryable", retryable);
    response
}

/// A job's status as fal tells it. `logs`: the lines to show.
fn status_body(job: &JobRecord, live: Option<Live>, logs: &[LogLine]) -> Value {
    let url = format!("{}/{APP}/requests/{}", job.base_url, job.id);
    let mut body = json!({
        "request_id": job.id,
        "response_url": url,
        "status_url": format!("{url}/status"),
        "cancel_url": format!("{url}/cancel"),
        "logs": logs.iter().map(log_line).collect::<Vec<_>>(),
    });
    match (job.state, live) {
        (JobState::Queued, Some(Live::Queued { position })) => {
            body["status"] = "IN_QUEUE".into();
            body["queue_position"] = position.into();
        }
        (JobState::Queued | JobState::Running, _) => body["status"] = "IN_PROGRESS".into(),
        (JobState::Completed | JobState::Failed | JobState::Cancelled, _) => {
            body["status"] = "COMPLETED".into();
            body["metrics"] = json!({"inference_time": job.run_seconds().unwrap_or(0.0)});
            if let Some((error, kind)) = ended_badly(job) {
                body["error"] = error.into();
                body["error_type"] = kind.into();
            }
        }
    }
    body
}

fn log_line(line: &LogLine) -> Value {
    let level = if line.level == Level::Warning { "WARN" } else { line.level.name() };
    json!({"message": line.message, "level": level, "source": "USER", "timestamp": iso_time(line.at)})
}

/// Why a job has no result, and fal's type for that.
fn ended_badly(job: &JobRecord) -> Option<(String, &'static str)> {
    match (job.state, &job.failure) {
        (JobState::Cancelled, _) => Some(("Request was cancelled".to_string(), "client_cancelled")),
        (JobState::Failed, Some(failure)) => Some((failure.message.clone(), kind_of(failure))),
        (JobState::Failed, None) => Some(("the job failed".to_string(), "internal_error")),
        _ => None,
    }
}

fn kind_of(failure: &Failure) -> &'static str {
    match failure.blame {
        Blame::Video | Blame::Audio if failure.fetching => "file_download_error",
        Blame::Video => "unsupported_video_format",
        Blame::Audio => "unsupported_audio_format",
        Blame::Request => "value_error",
        Blame::Server => "internal_error",
    }
}

/// The status and body that the model answers with: fal passes them on unchanged.
fn outcome(job: &JobRecord) -> (StatusCode, Value) {
    if let (Some(output), Some(url)) = (&job.output, job.output_url()) {
        let file = json!({
            "url": url,
            "content_type": "video/mp4",
            "file_name": super::jobs::files::OUTPUT,
            "file_size": output.bytes,
        });
        return (StatusCode::OK, json!({"video": file}));
    }
    let (message, kind) = ended_badly(job).unwrap_or_default();
    let of_input = |field: &str, location: &[&str]| {
        let detail = json!({
            "loc": location,
            "msg": message,
            "type": kind,
            "url": format!("https://docs.fal.ai/errors/#{kind}"),
            "ctx": {},
            "input": job.body.get(field),
        });
        (StatusCode::UNPROCESSABLE_ENTITY, json!({"detail": [detail]}))
    };
    match job.failure.as_ref().map(|failure| failure.blame) {
        Some(Blame::Video) => of_input("video_url", &["body", "video_url"]),
        Some(Blame::Audio) => of_input("audio_url", &["body", "audio_url"]),
        Some(Blame::Request) => of_input("", &["body"]),
        // 499 is what fal has from nginx: the client has closed the request.
        None if job.state == JobState::Cancelled => (
            StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            json!({"detail": message, "error_type": kind}),
        ),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, json!({"detail": message, "error_type": kind})),
    }
}

/// A finished job's answer.
fn answer(job: &JobRecord) -> Response {
    let (status, body) = outcome(job);
    let mut response = reply::json(status, &body);
    if let Ok(id) = HeaderValue::from_str(&job.id) {
        response.headers_mut().insert("x-fal-request-id", id);
    }
    if let Some((_, kind)) = ended_badly(job) {
        response.headers_mut().insert("x-fal-error-type", HeaderValue::from_static(kind));
    }
    response
}

/// The message that ends a job whose submission named a webhook.
pub fn webhook(app: &App, job: &JobRecord) -> Message {
    let (status, payload) = outcome(job);
    let mut body = json!({
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": if status.is_success() { "OK" } else { "ERROR" },
        "payload": payload,
    });
    if !status.is_success() {
        body["error"] = format!("Invalid status code: {}", status.as_u16()).into();
    }
    let message = Message::new(&body);
    let time = (now() / 1000).to_string();
    let digest = crate::weights::digest::hex(&super::keys::sha256(&message.body));
    let signature = app.signer.ed25519(format!("{}\n{USER}\n{time}\n{digest}", job.id).as_bytes());
    message
        .with("x-fal-webhook-request-id", &job.id)
        .with("x-fal-webhook-user-id", USER)
        .with("x-fal-webhook-timestamp", &time)
        .with("x-fal-webhook-signature", &signature)
}
