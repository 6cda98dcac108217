//! A request's status as server-sent events. Each event has only the log lines that the previous ones did not
//! have: the clients add them up.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;

use super::queue::{RequestPath, find, wants_logs};
use super::response::status_body;
use super::{Application, set_request_id};
use crate::server::app::{App, Caller};
use crate::server::problem::Problem;
use crate::server::reply;
use crate::server::sse::{self, JobEvents, Poll, Update};

pub async fn status(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    reply::Path(RequestPath { id }): reply::Path<RequestPath>,
    query: reply::Query,
) -> Result<Response, Problem> {
    find(&app, application, &caller, &id).await?;
    let source =
        StatusEvents { application, caller, id: id.clone(), with_logs: wants_logs(&query), lines_sent: 0 };
    let mut response = sse::response(app, source);
    set_request_id(&mut response, &id);
    Ok(response)
}

struct StatusEvents {
    application: Application,
    caller: Caller,
    id: String,
    with_logs: bool,
    lines_sent: usize,
}

impl StatusEvents {
    /// `None` if the request can no longer be read.
    async fn update(&mut self, app: &App) -> Option<Update> {
        let job = find(app, self.application, &self.caller, &self.id).await.ok()?;
        let mut lines = Vec::new();
        if self.with_logs {
            let id = self.id.clone();
            lines = app.blocking(move |app| Ok(app.jobs.store.logs(&id)?)).await.ok()?;
            lines.drain(..self.lines_sent.min(lines.len()));
        }
        // New lines are always sent.
        self.lines_sent += lines.len();
        let live = app.jobs.live(&self.id);
        Some(Update {
            state: status_body(&job, live, &[]),
            has_news: !lines.is_empty(),
            is_last: job.state.is_final(),
            event: Event::default().data(status_body(&job, live, &lines).to_string()),
        })
    }
}

impl JobEvents for StatusEvents {
    const MIN_INTERVAL: Duration = Duration::from_millis(100);

    async fn poll(&mut self, app: &App) -> Poll {
        self.update(app).await.map_or(Poll::End, Poll::Update)
    }
}
