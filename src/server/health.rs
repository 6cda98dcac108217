//! What whoever runs the server asks it: is it alive, is it ready, how is it doing.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::app::{App, Caller};
use super::problem::{Problem, answer_with};
use super::reply;

pub fn router() -> Router<App> {
    Router::new()
        .route("/healthz", get(|| async { reply::json(StatusCode::OK, &json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    reply::json(problem.status(), &json!({"detail": problem.message()}))
}

/// Ready once the model is loaded, and until the server shuts down.
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
