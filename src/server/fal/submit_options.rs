//! What a submission's headers and query ask for, beside what its body says.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::server::app::App;
use crate::server::jobs::{Priority, now};
use crate::server::origin;
use crate::server::problem::Problem;
use crate::server::reply;

/// A shorter time to wait for a start is refused, as fal's clients do.
const SHORTEST_WAIT: f64 = 0.1;

pub struct Wishes {
    /// Where the path does not say whether the queue or the run is meant: a host that begins with `queue.`, a webhook,
    /// or the priority that JavaScript's client sends to the queue and to nothing else.
    pub queued: bool,
    pub priority: Priority,
    /// Who is to be told of the end.
    pub webhook: Option<String>,
    /// When the job must have started (milliseconds since 1970).
    pub start_by: Option<i64>,
}

impl FromRequestParts<App> for Wishes {
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
    let seconds = seconds.filter(|&seconds| seconds > SHORTEST_WAIT);
    let seconds =
        seconds.ok_or(Problem::Conflict("X-Fal-Request-Timeout must be a number of seconds above 0.1"))?;
    // The conversion ends at the largest number.
    Ok(Some(now().saturating_add((seconds * 1000.0) as i64)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
