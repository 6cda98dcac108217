//! fal's `fal-ai/latentsync` and `fal-ai/sync-lipsync`: queue, synchronous run, storage, proxy and webhook.
//!
//! fal has a host for each of the first three; here they are paths of one server. `/fal/queue/…`,
//! `/fal/run/…` and `/fal/rest/…` name the host. Without a prefix, the path or the request itself decides:
//! see [`submit_options`].

mod routes;
mod storage_routes;
mod application;
mod submit_options;
mod queue;
mod run;
mod events;
mod output;
mod storage;
mod proxy;
mod validate;
mod response;

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::request::Api;
use crate::server::app::{App, Caller};
use crate::server::problem::Problem;
use crate::server::reply;
use crate::server::routes::Routes;
use crate::server::vendor::{EndedJob, Message, Vendor, WebhookPolicy};
use application::Application;
use submit_options::SubmitOptions;

const REQUEST_ID: &str = "x-fal-request-id";
/// Bytes of a submission, which may contain its files as data URIs.
const MAX_BODY: usize = 64 << 20;

pub struct Fal;

impl Vendor for Fal {
    fn name(&self) -> &'static str {
        routes::TAG
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Fal, Api::FalLipsync]
    }

    fn routes(&self) -> Routes {
        routes::routes().map_response(identified)
    }

    fn schemas(&self, _max_upload: u64) -> Value {
        let mut schemas = routes::schemas();
        if let (Some(all), Value::Object(storage)) = (schemas.as_object_mut(), storage_routes::schemas()) {
            all.extend(storage);
        }
        schemas
    }

    fn webhook_operation(&self) -> Value {
        routes::webhook_operation()
    }

    fn error_response(&self, problem: &Problem) -> Response {
        let mut response = error_response(problem);
        set_request_id(&mut response, &Uuid::new_v4().to_string());
        response
    }

    /// Ten retries within two hours.
    fn webhook_policy(&self) -> WebhookPolicy {
        let retry_seconds = &[10, 20, 40, 80, 160, 320, 640, 1280, 1920, 2400];
        WebhookPolicy { timeout: Duration::from_secs(15), retry_seconds }
    }

    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message> {
        Some(response::webhook_message(ended.signer, ended.job))
    }

    fn exposed_headers(&self) -> &'static [HeaderName] {
        static HEADERS: [HeaderName; 4] = [
            HeaderName::from_static(REQUEST_ID),
            HeaderName::from_static("x-fal-error-type"),
            HeaderName::from_static("x-fal-retryable"),
            HeaderName::from_static("x-fal-request-timeout-type"),
        ];
        &HEADERS
    }
}

/// `POST /fal-ai/latentsync`: `fal.run` and `queue.fal.run` share this path.
async fn submit_or_run(
    app: State<App>,
    application: Application,
    caller: Caller,
    options: SubmitOptions,
    body: reply::Body,
) -> Result<Response, Problem> {
    match options.queued {
        true => queue::submit(app, application, caller, options, body).await,
        false => run::run(app, application, caller, options, body).await,
    }
}

/// fal's error body: `detail`, and for some problems an error type that its clients know.
fn error_response(problem: &Problem) -> Response {
    let (status, kind) = match problem {
        Problem::Body(error) => return invalid(&[validate::not_json(error)]),
        Problem::Field(error) => return invalid(&[validate::of_field(error, &Value::Null)]),
        Problem::Server(_) => (StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error")),
        Problem::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, Some("runner_disconnected")),
        Problem::Conflict(_) => (StatusCode::BAD_REQUEST, Some("bad_request")),
        other => (other.status(), None),
    };
    let mut body = json!({"detail": problem.message()});
    if let Some(kind) = kind {
        body["error_type"] = kind.into();
    }
    refusal(status, &body, kind)
}

/// A 422 response with the details of what is wrong with which field.
fn invalid(details: &[Value]) -> Response {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, &json!({"detail": details}), None)
}

/// An error response.
fn refusal(status: StatusCode, body: &Value, kind: Option<&'static str>) -> Response {
    let mut response = reply::json(status, body);
    let headers = response.headers_mut();
    if let Some(kind) = kind {
        headers.insert("x-fal-error-type", HeaderValue::from_static(kind));
    }
    let retryable = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    headers.insert("x-fal-retryable", HeaderValue::from_static(if retryable { "true" } else { "false" }));
    response
}

/// Adds a request identifier where there is none: fal's Python client recognises fal's responses by it.
async fn identified(mut response: Response) -> Response {
    if !response.headers().contains_key(REQUEST_ID) {
        set_request_id(&mut response, &Uuid::new_v4().to_string());
    }
    response
}

fn set_request_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
