//! fal's `fal-ai/latentsync` and `fal-ai/sync-lipsync`: the queue, the synchronous run, the storage, the proxy and
//! the webhook.
//!
//! fal has a host for each; here they are one server's paths. `/fal/queue/…`, `/fal/run/…` and `/fal/rest/…`
//! say which host is meant. Without a prefix the path or the request itself does: see `submit_options`.

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

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::{App, Caller};
use super::problem::{Problem, answer_with};
use super::reply;
use application::Application;
pub use response::webhook;
use submit_options::Wishes;

const REQUEST_ID: &str = "x-fal-request-id";
/// Bytes of a submission, which may bring its files along as data URIs.
const MAX_BODY: usize = 64 << 20;

/// The whole API.
pub fn router() -> Router<App> {
    // The proxy calls what the others answer.
    let proxied = hosts().fallback(|| async { Problem::NotFound("path") });
    let forward = move |State(app): State<App>, request| proxy::forward(app, proxied.clone(), request);
    hosts()
        .route("/fal/proxy", get(forward.clone()).post(forward.clone()).put(forward))
        .layer(map_response(answer_with(words)))
        .layer(map_response(identified))
}

fn hosts() -> Router<App> {
    let requests = Router::new()
        .route("/fal-ai/{alias}/requests/{id}", get(queue::result))
        .route("/fal-ai/{alias}/requests/{id}/status", get(queue::status))
        .route("/fal-ai/{alias}/requests/{id}/status/stream", get(events::status))
        .route("/fal-ai/{alias}/requests/{id}/cancel", put(queue::cancel));
    let at_once = Router::new()
        .route("/fal-ai/{alias}", post(run::run))
        .route("/fal-ai/{alias}/{*subpath}", post(run::run))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let queued = Router::new()
        .route("/fal-ai/{alias}", post(queue::submit))
        .route("/fal-ai/{alias}/{*subpath}", post(queue::submit))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let by_request = Router::new()
        .route("/fal-ai/{alias}", post(submit_or_run))
        .route("/fal-ai/{alias}/{*subpath}", post(submit_or_run))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let rest = storage::router().route("/.well-known/jwks.json", get(jwks));
    Router::new()
        .nest("/fal/queue", queued.merge(requests.clone()))
        .nest("/fal/run", at_once)
        .nest("/fal/rest", rest.clone())
        .merge(by_request.merge(requests))
        .merge(rest)
}

async fn jwks(State(app): State<App>) -> Response {
    reply::json(StatusCode::OK, &app.signer.jwks())
}

/// `POST /fal-ai/latentsync`: `fal.run` and `queue.fal.run` have the same path.
async fn submit_or_run(
    app: State<App>,
    application: Application,
    caller: Caller,
    wishes: Wishes,
    body: reply::Body,
) -> Result<Response, Problem> {
    match wishes.queued {
        true => queue::submit(app, application, caller, wishes, body).await,
        false => run::run(app, application, caller, wishes, body).await,
    }
}

/// fal's words for a problem: `detail`, and for some a type that its clients know.
fn words(problem: &Problem) -> Response {
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

/// 422, with what is wrong with which field.
fn invalid(details: &[Value]) -> Response {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, &json!({"detail": details}), None)
}

/// Any answer but a good one.
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

/// Every answer of fal's has a request's identifier: its Python client knows by it who has answered.
async fn identified(mut response: Response) -> Response {
    if !response.headers().contains_key(REQUEST_ID) {
        with_id(&mut response, &Uuid::new_v4().to_string());
    }
    response
}

fn with_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
