//! `queue.fal.run`: submit, status, result, cancel.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AppName, SubmitQuery, answer, infra_error, status_body, storage, validate};
use crate::request::Api;
use crate::server::app::{App, Caller, Order};
use crate::server::jobs::{Cancelled, JobRecord, Live, Webhook};
use crate::server::problem::Problem;
use crate::server::reply;

/// The path of a request's URLs.
#[derive(Deserialize)]
pub struct RequestPath {
    pub id: String,
}

#[derive(Deserialize)]
pub struct StatusQuery {
    /// JavaScript's client says `1`, Python's says `true`.
    logs: Option<String>,
}

impl StatusQuery {
    pub fn wants_logs(&self) -> bool {
        matches!(self.logs.as_deref(), Some("1" | "true" | "True"))
    }
}

pub async fn submit(
    State(app): State<App>,
    _: AppName,
    caller: Caller,
    reply::Query(query): reply::Query<SubmitQuery>,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let webhook = query.fal_webhook.map(|url| Webhook { url, secret: None });
    match accept(&app, &caller, body, webhook).await? {
        Ok(id) => {
            let job = app.job(&caller, &id, "request").await?.as_accepted();
            // What has been started since stood first in the queue.
            let position = match app.jobs.live(&id) {
                Some(Live::Queued { position }) => position,
                _ => 0,
            };
            let body = status_body(&job, Some(Live::Queued { position }), &[]);
            Ok(reply::json(StatusCode::OK, &body))
        }
        Err(details) => Ok(invalid(&details)),
    }
}

/// Makes a body a job, or says what is wrong with its fields.
pub async fn accept(
    app: &App,
    caller: &Caller,
    body: Value,
    webhook: Option<Webhook>,
) -> Result<Result<String, Vec<Value>>, Problem> {
    let mut body = match validate::input(body) {
        Ok(body) => body,
        Err(details) => return Ok(Err(details)),
    };
    for field in ["video_url", "audio_url"] {
        storage::store_data_uri(app, caller, field, &mut body[field]).await?;
    }
    let order = Order { api: Api::Fal, body, webhook, at_once: None };
    app.submit(caller, order).await.map(Ok)
}

pub async fn status(
    State(app): State<App>,
    _: AppName,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
    reply::Query(query): reply::Query<StatusQuery>,
) -> Result<Response, Problem> {
    let job = find(&app, &caller, &id).await?;
    let logs = match query.wants_logs() {
        true => app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await?,
        false => Vec::new(),
    };
    let code = if job.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(reply::json(code, &status_body(&job, app.jobs.live(&job.id), &logs)))
}

pub async fn result(
    State(app): State<App>,
    _: AppName,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
) -> Result<Response, Problem> {
    let job = find(&app, &caller, &id).await?;
    match job.state.is_final() {
        true => Ok(answer(&job)),
        false => Ok(infra_error(StatusCode::BAD_REQUEST, "Request is still in progress", None)),
    }
}

pub async fn cancel(
    State(app): State<App>,
    _: AppName,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
) -> Result<Response, Problem> {
    let (code, status) = match app.job(&caller, &id, "request").await {
        Err(Problem::NotFound(_)) => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Err(problem) => return Err(problem),
        Ok(_) => match app.blocking(move |app| Ok(app.jobs.cancel(&id)?)).await? {
            Cancelled::Done | Cancelled::Requested => (StatusCode::ACCEPTED, "CANCELLATION_REQUESTED"),
            Cancelled::AlreadyEnded => (StatusCode::BAD_REQUEST, "ALREADY_COMPLETED"),
            Cancelled::Unknown => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        },
    };
    Ok(reply::json(code, &json!({"status": status})))
}

/// 422, with what is wrong with which field.
pub fn invalid(details: &[Value]) -> Response {
    reply::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({"detail": details}))
}

pub async fn find(app: &App, caller: &Caller, id: &str) -> Result<JobRecord, Problem> {
    let job = app.job(caller, id, "request").await?;
    match job.api {
        Api::Fal => Ok(job),
        _ => Err(Problem::NotFound("request")),
    }
}
