//! `queue.fal.run`: submit, status, result, cancel.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Application, Wishes, invalid, refusal, storage, validate, with_id};
use crate::request::Request;
use crate::server::app::{App, Caller, Order};
use crate::server::fal::response::{answer, status_body};
use crate::server::jobs::{Cancelled, JobRecord, Live};
use crate::server::problem::Problem;
use crate::server::{media, reply};

/// The path of a request's URLs.
#[derive(Deserialize)]
pub struct RequestPath {
    pub id: String,
}

/// JavaScript's client says `1`, Python's says `true`.
pub fn wants_logs(query: &reply::Query) -> bool {
    matches!(query.get("logs"), Some("1" | "true" | "True"))
}

pub async fn submit(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    wishes: Wishes,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    // The queue has no streams.
    if application.stream {
        return Err(Problem::NotFound("application"));
    }
    match accept(&app, &caller, application, wishes, body).await? {
        Ok(id) => {
            let job = app.job(&caller, &id, "request").await?.as_accepted();
            // What has been started since stood first in the queue.
            let position = match app.jobs.live(&id) {
                Some(Live::Queued { position }) => position,
                _ => 0,
            };
            let mut body = status_body(&job, Some(Live::Queued { position }), &[]);
            body["gateway_request_id"] = id.as_str().into();
            let mut response = reply::json(StatusCode::OK, &body);
            with_id(&mut response, &id);
            Ok(response)
        }
        Err(details) => Ok(invalid(&details)),
    }
}

/// Makes a body a job, or says what is wrong with its fields.
pub async fn accept(
    app: &App,
    caller: &Caller,
    application: Application,
    wishes: Wishes,
    body: Value,
) -> Result<Result<String, Vec<Value>>, Problem> {
    let mut body = match validate::input(application, body) {
        Ok(body) => body,
        Err(details) => return Ok(Err(details)),
    };
    // What is no mistake to fal before it looks at the files, but is one.
    if let Err(error) = Request::from_json(&body, Some(application.api)) {
        return Ok(Err(vec![validate::of_field(&error, &body)]));
    }
    let webhook = wishes.webhook.as_deref().map(|url| app.webhook("query.fal_webhook", url, None));
    let webhook = match webhook.transpose() {
        Ok(webhook) => webhook,
        Err(error) => return Ok(Err(vec![validate::of_field(&error, &body)])),
    };
    let mut stored = Vec::new();
    let accepted = match store_data_uris(app, caller, &mut body, &mut stored).await {
        Ok(()) => {
            let order = Order {
                webhook,
                priority: wishes.priority,
                start_by: wishes.start_by,
                ..Order::new(application.api, body)
            };
            app.submit(caller, order).await.map(Ok)
        }
        Err(Problem::Field(error)) => Ok(Err(vec![validate::of_field(&error, &body)])),
        Err(problem) => Err(problem),
    };
    if !matches!(accepted, Ok(Ok(_))) {
        media::discard(app, stored).await;
    }
    accepted
}

async fn store_data_uris(
    app: &App,
    caller: &Caller,
    body: &mut Value,
    stored: &mut Vec<String>,
) -> Result<(), Problem> {
    for field in ["video_url", "audio_url"] {
        stored.extend(storage::store_data_uri(app, caller, field, &mut body[field]).await?);
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
    with_id(&mut response, &job.id);
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
    with_id(&mut response, &job.id);
    Ok(response)
}

/// What was waiting is gone at once; what is running is told to stop.
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
            Cancelled::Done => (StatusCode::OK, "OK"),
            Cancelled::Requested => (StatusCode::ACCEPTED, "CANCELLATION_REQUESTED"),
            Cancelled::AlreadyEnded => (StatusCode::BAD_REQUEST, "ALREADY_COMPLETED"),
            Cancelled::Unknown => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        },
    };
    Ok(reply::json(code, &json!({"status": status})))
}

/// A request of this application's and of the caller's.
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
