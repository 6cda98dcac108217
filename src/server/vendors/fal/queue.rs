//! `queue.fal.run`: submit, status, result, cancel.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::response::{answer, status_body};
use super::{Application, SubmitOptions, invalid, refusal, set_request_id, storage, validate};
use crate::request::Request;
use crate::server::app::{App, Caller};
use crate::server::jobs::{CancelOutcome, JobRecord, LiveState, NewJob};
use crate::server::problem::Problem;
use crate::server::{media, reply};

/// The path parameters of a request's URLs.
#[derive(Deserialize)]
pub struct RequestPath {
    pub id: String,
}

/// Whether the query asks for log lines: fal's JavaScript client sends `1`, its Python client `true`.
pub fn wants_logs(query: &reply::Query) -> bool {
    matches!(query.get("logs"), Some("1" | "true" | "True"))
}

pub async fn submit(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    options: SubmitOptions,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    // Streams exist on fal.run only.
    if application.stream {
        return Err(Problem::NotFound("application"));
    }
    match accept(&app, &caller, application, options, body).await? {
        Ok(id) => {
            let job = app.job(&caller, &id, "request").await?.as_accepted();
            // A job that has been started in the meantime was the first in the queue.
            let position = match app.jobs.live(&id) {
                Some(LiveState::Queued { position }) => position,
                _ => 0,
            };
            let mut body = status_body(&job, Some(LiveState::Queued { position }), &[]);
            body["gateway_request_id"] = id.as_str().into();
            let mut response = reply::json(StatusCode::OK, &body);
            set_request_id(&mut response, &id);
            Ok(response)
        }
        Err(details) => Ok(invalid(&details)),
    }
}

/// Validates a body and submits the job. The inner error has the details of the fields that are wrong.
pub async fn accept(
    app: &App,
    caller: &Caller,
    application: Application,
    options: SubmitOptions,
    body: Value,
) -> Result<Result<String, Vec<Value>>, Problem> {
    let mut body = match validate::input(application, body) {
        Ok(body) => body,
        Err(details) => return Ok(Err(details)),
    };
    // Rules that fal itself checks only when it reads the files, such as empty URLs.
    let mut request = match Request::from_json(&body, Some(application.api)) {
        Ok(request) => request,
        Err(error) => return Ok(Err(vec![validate::of_field(&error, &body)])),
    };
    let webhook = options.webhook.as_deref().map(|url| app.webhook("query.fal_webhook", url, None));
    let webhook = match webhook.transpose() {
        Ok(webhook) => webhook,
        Err(error) => return Ok(Err(vec![validate::of_field(&error, &body)])),
    };
    let mut stored = Vec::new();
    let files = [("video_url", &mut request.video), ("audio_url", &mut request.audio)];
    let accepted = match store_data_uris(app, caller, &mut body, files, &mut stored).await {
        Ok(()) => {
            let job = NewJob {
                webhook,
                priority: options.priority,
                start_by: options.start_by,
                ..caller.job(request, &body)
            };
            app.submit(job).await.map(Ok)
        }
        Err(Problem::Field(error)) => Ok(Err(vec![validate::of_field(&error, &body)])),
        Err(problem) => Err(problem),
    };
    if !matches!(accepted, Ok(Ok(_))) {
        media::discard(app, stored).await;
    }
    accepted
}

/// Stores the `files` that are data URIs as uploads, and puts the uploads' URLs in their places and into
/// `body`. Adds the uploads to `stored`.
async fn store_data_uris(
    app: &App,
    caller: &Caller,
    body: &mut Value,
    files: [(&str, &mut String); 2],
    stored: &mut Vec<String>,
) -> Result<(), Problem> {
    for (field, url) in files {
        if let Some(upload) = storage::store_data_uri(app, caller, field, url).await? {
            *url = upload.url;
            body[field] = url.as_str().into();
            stored.push(upload.id);
        }
    }
    Ok(())
}

pub async fn status(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
    query: reply::Query,
) -> Result<Response, Problem> {
    let job = find(&app, application, &caller, &id).await?;
    let logs = match wants_logs(&query) {
        true => app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await?,
        false => Vec::new(),
    };
    let code = if job.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = reply::json(code, &status_body(&job, app.jobs.live(&job.id), &logs));
    set_request_id(&mut response, &job.id);
    Ok(response)
}

pub async fn result(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
) -> Result<Response, Problem> {
    let job = find(&app, application, &caller, &id).await?;
    let mut response = match job.state.is_final() {
        true => answer(&job),
        false => refusal(StatusCode::BAD_REQUEST, &json!({"detail": "Request is still in progress"}), None),
    };
    set_request_id(&mut response, &job.id);
    Ok(response)
}

/// Cancels a request. A waiting one is cancelled at once; a running one is signalled to stop.
pub async fn cancel(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
) -> Result<Response, Problem> {
    let (code, status) = match find(&app, application, &caller, &id).await {
        Err(Problem::NotFound(_)) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Err(problem) => return Err(problem),
        Ok(_) => match app.blocking(move |app| Ok(app.jobs.cancel(&id)?)).await? {
            CancelOutcome::Cancelled => (StatusCode::OK, "OK"),
            CancelOutcome::Requested => (StatusCode::ACCEPTED, "CANCELLATION_REQUESTED"),
            CancelOutcome::AlreadyEnded => (StatusCode::BAD_REQUEST, "ALREADY_COMPLETED"),
            CancelOutcome::Unknown => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        },
    };
    Ok(reply::json(code, &json!({"status": status})))
}

/// A request of this application and of the caller.
pub async fn find(
    app: &App,
    application: Application,
    caller: &Caller,
    id: &str,
) -> Result<JobRecord, Problem> {
    let job = app.job(caller, id, "request").await?;
    match job.api == application.api {
        true => Ok(job),
        false => Err(Problem::NotFound("request")),
    }
}
