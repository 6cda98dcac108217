//! Liveness, readiness and metrics.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::app::{App, Caller};
use super::openapi::Operation;
use super::openapi::schemas::{integer, object, reference, string};
use super::problem::Problem;
use super::reply::{self, detail};
use super::routes::Routes;

/// The tag of the operations that belong to no API.
pub const TAG: &str = "server";

pub fn routes() -> Routes {
    let status = |summary: &str| Operation::new(summary).response(200, reference("Status")).without_key();
    let alive = || async { reply::json(StatusCode::OK, &json!({"status": "ok"})) };
    let numbers = Operation::new("numbers for Prometheus").response_as(200, "text/plain", string());
    Routes::new(TAG)
        .get("/healthz", alive, status("is it alive"))
        .get("/readyz", ready, status("does it take jobs").response(503, reference("Status")))
        .get("/metrics", metrics, numbers.error_responses("Detail", &[]))
        .errors(detail)
}

pub fn schemas() -> Value {
    json!({
        "Detail": object([("detail", string())]),
        "Status": object([("status", string()), ("queued?", integer())]),
    })
}

/// Ready once the model is loaded, until the server shuts down.
async fn ready(State(app): State<App>) -> Response {
    let (status, word) = match (app.metrics.is_ready(), app.jobs.is_closed()) {
        (true, false) => (StatusCode::OK, "ready"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "loading the model"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
    };
    reply::json(status, &json!({"status": word, "queued": app.jobs.waiting()}))
}

async fn metrics(State(app): State<App>, _: Caller) -> Result<Response, Problem> {
    let text = app.blocking(|app| Ok(app.metrics.text(&app.jobs)?)).await?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
