//! fal's representation of a job: status, result and webhook message.

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::{application, refusal, set_request_id};
use crate::server::jobs::{Blame, Failure, JobRecord, Level, LiveState, LogLine, State, now};
use crate::server::keys::sha256;
use crate::server::reply::{self, iso_time};
use crate::server::signing::Signer;
use crate::server::vendor::Message;
use crate::system::digest::hex;

/// The user identifier in webhook headers.
const USER: &str = "local";

/// A job's status, with the lines `logs`.
pub fn status_body(job: &JobRecord, live: Option<LiveState>, logs: &[LogLine]) -> Value {
    let url = format!("{}/{}/requests/{}", job.base_url, application::path(job.api), job.id);
    let mut body = json!({
        "request_id": job.id,
        "response_url": url,
        "status_url": format!("{url}/status"),
        "cancel_url": format!("{url}/cancel"),
        "logs": logs.iter().map(log_line).collect::<Vec<_>>(),
    });
    match (job.state, live) {
        (State::Queued, Some(LiveState::Queued { position })) => {
            body["status"] = "IN_QUEUE".into();
            body["queue_position"] = position.into();
        }
        (State::Queued | State::Running, _) => body["status"] = "IN_PROGRESS".into(),
        (State::Completed | State::Failed | State::Cancelled, _) => {
            let (error, kind) = error_of(job).unzip();
            body["status"] = "COMPLETED".into();
            body["metrics"] = json!({"inference_time": job.run_seconds().unwrap_or(0.0)});
            body["error"] = error.into();
            body["error_type"] = kind.into();
        }
    }
    body
}

fn log_line(line: &LogLine) -> Value {
    let level = if line.level == Level::Warning { "WARN" } else { line.level.name() };
    json!({"message": line.message, "level": level, "source": "USER", "timestamp": iso_time(line.at)})
}

/// The error message and error type of a job that has ended without a result.
fn error_of(job: &JobRecord) -> Option<(String, &'static str)> {
    match (job.state, &job.failure) {
        (State::Cancelled, _) => Some(("Request was cancelled".to_string(), "client_cancelled")),
        (State::Failed, Some(failure)) => Some((failure.message.clone(), kind_of(failure))),
        (State::Failed, None) => Some(("the job failed".to_string(), "internal_error")),
        _ => None,
    }
}

fn kind_of(failure: &Failure) -> &'static str {
    match failure.blame {
        Blame::Video | Blame::Audio if failure.fetching => "file_download_error",
        Blame::Video => "unsupported_video_format",
        Blame::Audio => "unsupported_audio_format",
        Blame::Request => "value_error",
        Blame::StartTimeout => "request_timeout",
        Blame::Server => "internal_error",
    }
}

/// Status and body of a finished job's response, as fal's model server returns them.
pub fn outcome(job: &JobRecord) -> (StatusCode, Value) {
    if let (Some(output), Some(url)) = (&job.output, job.output_url()) {
        let file = json!({
            "url": url,
            "content_type": "video/mp4",
            "file_name": job.output_name,
            "file_size": output.bytes,
        });
        return (StatusCode::OK, json!({"video": file}));
    }
    let (message, kind) = error_of(job).unwrap_or_default();
    let of_input = |location: &[&str]| {
        let input = location.get(1).map_or(&job.body, |field| &job.body[*field]);
        let detail = json!({
            "loc": location,
            "msg": message,
            "type": kind,
            "url": format!("https://docs.fal.ai/errors/#{kind}"),
            "ctx": {},
            "input": input,
        });
        (StatusCode::UNPROCESSABLE_ENTITY, json!({"detail": [detail]}))
    };
    let status = match job.failure.as_ref().map(|failure| failure.blame) {
        Some(Blame::Video) => return of_input(&["body", "video_url"]),
        Some(Blame::Audio) => return of_input(&["body", "audio_url"]),
        Some(Blame::Request) => return of_input(&["body"]),
        Some(Blame::StartTimeout) => StatusCode::GATEWAY_TIMEOUT,
        // nginx's "client closed request", which fal uses.
        None if job.state == State::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Some(Blame::Server) | None => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, json!({"detail": message, "error_type": kind}))
}

/// A finished job's response.
pub fn answer(job: &JobRecord) -> Response {
    let (status, body) = outcome(job);
    let mut response = match error_of(job) {
        Some((_, kind)) => refusal(status, &body, Some(kind)),
        None => reply::json(status, &body),
    };
    // Without this header, fal's JavaScript client takes the timeout for a temporary one of the server and
    // retries.
    if job.failure.as_ref().is_some_and(|failure| failure.blame == Blame::StartTimeout) {
        response.headers_mut().insert("x-fal-request-timeout-type", HeaderValue::from_static("user"));
    }
    set_request_id(&mut response, &job.id);
    response
}

/// The webhook message, signed with the key pair of the server.
pub fn webhook_message(signer: &Signer, job: &JobRecord) -> Message {
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
    let digest = hex(&sha256(&message.body));
    let signature = signer.ed25519(format!("{}\n{USER}\n{time}\n{digest}", job.id).as_bytes());
    message
        .with("x-fal-webhook-request-id", &job.id)
        .with("x-fal-webhook-user-id", USER)
        .with("x-fal-webhook-timestamp", &time)
        .with("x-fal-webhook-signature", &signature)
}
