//! `fal.run`: the request stays open until the result is there. A client that goes away takes its job with it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::{AppName, answer, infra_error, queue};
use crate::server::app::{App, Caller};
use crate::server::jobs::{Jobs, Live};
use crate::server::problem::Problem;
use crate::server::reply;

pub async fn run(
    State(app): State<App>,
    _: AppName,
    caller: Caller,
    headers: HeaderMap,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let start_within = headers.get("x-fal-request-timeout").and_then(|value| value.to_str().ok());
    let start_within = start_within.and_then(|seconds| seconds.parse::<f64>().ok());
    let start_within = start_within.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let id = match queue::accept(&app, &caller, body, None).await? {
        Ok(id) => id,
        Err(details) => return Ok(queue::invalid(&details)),
    };
    let mut visitor = Visitor { jobs: app.jobs.clone(), id: Some(id.clone()) };
    if let Some(patience) = start_within
        && tokio::time::timeout(patience, started(&app.jobs, &id)).await.is_err()
    {
        let detail = "the request was not started in time";
        return Ok(infra_error(StatusCode::GATEWAY_TIMEOUT, detail, Some("request_timeout")));
    }
    let job = app.wait(&caller, &id).await?;
    visitor.id = None;
    Ok(answer(&job))
}

/// Waits until a job is not waiting any more.
async fn started(jobs: &Jobs, id: &str) {
    let mut changes = jobs.changes();
    loop {
        changes.mark_unchanged();
        if !matches!(jobs.live(id), Some(Live::Queued { .. })) || changes.changed().await.is_err() {
            return;
        }
    }
}

/// Cancels the job when the connection is gone before the job has ended.
struct Visitor {
    jobs: Arc<Jobs>,
    id: Option<String>,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // A server that ends keeps its jobs.
        if self.jobs.is_closed() {
            return;
        }
        let jobs = self.jobs.clone();
        let cancel = move || {
            if let Err(error) = jobs.cancel(&id) {
                tracing::error!(job = id, "cannot be cancelled: {error}");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(cancel)),
            Err(_) => cancel(),
        }
    }
}
