//! `fal.run`: the response is sent when the job has ended. The job is cancelled if the client disconnects.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::response::answer;
use super::{Application, SubmitOptions, invalid, output, queue};
use crate::server::app::{App, Caller};
use crate::server::jobs::Jobs;
use crate::server::problem::Problem;
use crate::server::reply;

pub async fn run(
    State(app): State<App>,
    application: Application,
    caller: Caller,
    options: SubmitOptions,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let options = SubmitOptions { webhook: None, ..options };
    let id = match queue::accept(&app, &caller, application, options, body).await? {
        Ok(id) => id,
        Err(details) => return Ok(invalid(&details)),
    };
    let guard = CancelOnDisconnect::new(&app, &id);
    if application.stream {
        return Ok(output::stream(app, caller, id, guard));
    }
    let job = app.wait(&caller, &id).await?;
    guard.disarm();
    Ok(answer(&job))
}

/// Cancels the job when it is dropped, which happens when the client disconnects before the job has ended.
pub struct CancelOnDisconnect {
    jobs: Arc<Jobs>,
    id: Option<String>,
}

impl CancelOnDisconnect {
    pub fn new(app: &App, id: &str) -> Self {
        Self { jobs: app.jobs.clone(), id: Some(id.to_string()) }
    }

    /// The job has ended: there is nothing to cancel.
    pub fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDisconnect {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // Jobs survive the end of the server.
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
