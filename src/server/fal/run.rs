//! `fal.run`: the request stays open until the result is there. A client that goes away takes its job with it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::{Application, Wishes, invalid, output, queue};
use crate::server::app::{App, Caller};
use crate::server::fal::response::answer;
use crate::server::jobs::Jobs;
use crate::server::problem::Problem;
use crate::server::reply;

pub async fn run(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    wishes: Wishes,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let id = match queue::accept(&app, &caller, application, Wishes { webhook: None, ..wishes }, body).await?
    {
        Ok(id) => id,
        Err(details) => return Ok(invalid(&details)),
    };
    let visitor = Visitor::of(&app, &id);
    if application.stream {
        return Ok(output::stream(app, caller, id, visitor));
    }
    let job = app.wait(&caller, &id).await?;
    visitor.stays();
    Ok(answer(&job))
}

/// Cancels the job when the connection is gone before the job has ended.
pub struct Visitor {
    jobs: Arc<Jobs>,
    id: Option<String>,
}

impl Visitor {
    pub fn of(app: &App, id: &str) -> Self {
        Self { jobs: app.jobs.clone(), id: Some(id.to_string()) }
    }

    /// The job has ended before the connection.
    pub fn stays(mut self) {
        self.id = None;
    }
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
