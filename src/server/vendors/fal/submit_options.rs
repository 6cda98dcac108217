//! Options of a submission that are in its headers and query.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::server::app::App;
use crate::server::jobs::{Priority, now};
use crate::server::origin;
use crate::server::problem::Problem;
use crate::server::reply;

/// Shortest start timeout in seconds, exclusive. fal's clients refuse shorter ones too.
const MIN_START_TIMEOUT: f64 = 0.1;

/// What the headers and the query of a submission ask for.
pub struct SubmitOptions {
    /// The queue is meant, where the path does not decide: the host begins with `queue.`, or there is a
    /// webhook, or the priority header that fal's JavaScript client sends to the queue only.
    pub queued: bool,
    pub priority: Priority,
    /// The URL of the webhook.
    pub webhook: Option<String>,
    /// When the job must have started (milliseconds since 1970).
    pub start_by: Option<i64>,
}

impl FromRequestParts<App> for SubmitOptions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Ok(query) = reply::Query::from_request_parts(parts, app).await;
        let webhook = query.get("fal_webhook").filter(|url| !url.is_empty()).map(str::to_string);
        let priority = text(&parts.headers, "x-fal-queue-priority");
        let host = origin::host(parts);
        Ok(Self {
            queued: priority.is_some()
                || webhook.is_some()
                || host.is_some_and(|host| host.as_str().starts_with("queue.")),
            priority: if priority == Some("low") { Priority::Low } else { Priority::Normal },
            webhook,
            start_by: start_by(&parts.headers)?,
        })
    }
}

fn start_by(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(given) = headers.get("x-fal-request-timeout") else { return Ok(None) };
    let seconds = given.to_str().ok().and_then(|seconds| seconds.trim().parse::<f64>().ok());
    let seconds = seconds.filter(|&seconds| seconds > MIN_START_TIMEOUT);
    let seconds =
        seconds.ok_or(Problem::Conflict("X-Fal-Request-Timeout must be a number of seconds above 0.1"))?;
    // The conversion saturates.
    Ok(Some(now().saturating_add((seconds * 1000.0) as i64)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
