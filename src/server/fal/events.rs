//! A request's status as a stream of server-sent events. Each event brings the lines of the log that the
//! ones before have not brought: the clients add them up.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use super::queue::{RequestPath, find, wants_logs};
use super::{Application, with_id};
use crate::server::app::{App, Caller};
use crate::server::fal::response::status_body;
use crate::server::problem::Problem;
use crate::server::reply;

/// JavaScript's client gives up after 15 seconds of silence.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);
/// A log that grows fast is told in pieces.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);

pub async fn status(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
    query: reply::Query,
) -> Result<Response, Problem> {
    find(&app, application, &caller, &id).await?;
    let (known, logs) = (id.clone(), wants_logs(&query));
    let watch = Watch { app, application, caller, id, logs, told: None, lines: 0, ended: false };
    let events = stream::unfold(watch, |mut watch| async move {
        let body = watch.next().await?;
        let event = Event::default().data(body.to_string());
        Some((Ok::<_, Infallible>(event), watch))
    });
    let mut response = Sse::new(events).into_response();
    with_id(&mut response, &known);
    Ok(response)
}

struct Watch {
    app: App,
    application: Application,
    caller: Caller,
    id: String,
    logs: bool,
    /// The last event, less its lines.
    told: Option<Value>,
    /// Lines that have been told.
    lines: usize,
    ended: bool,
}

impl Watch {
    /// The next event; `None` when the job has ended and that was said, or nothing can be said any more.
    async fn next(&mut self) -> Option<Value> {
        if self.ended {
            return None;
        }
        let mut changes = self.app.jobs.changes();
        let silent_until = tokio::time::Instant::now() + AT_LEAST_EVERY;
        loop {
            changes.mark_unchanged();
            let job = find(&self.app, self.application, &self.caller, &self.id).await.ok()?;
            let mut lines = Vec::new();
            if self.logs {
                let id = self.id.clone();
                lines = self.app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await.ok()?;
                lines.drain(..self.lines.min(lines.len()));
            }
            let plain = status_body(&job, self.app.jobs.live(&self.id), &[]);
            let silent = tokio::time::Instant::now() >= silent_until;
            if !lines.is_empty() || silent || self.told.as_ref() != Some(&plain) {
                self.ended = job.state.is_final();
                self.lines += lines.len();
                self.told = Some(plain);
                return Some(status_body(&job, self.app.jobs.live(&self.id), &lines));
            }
            if self.app.jobs.is_closed() {
                return None;
            }
            tokio::time::sleep(AT_MOST_EVERY).await;
            let _ = tokio::time::timeout_at(silent_until, changes.changed()).await;
        }
    }
}
