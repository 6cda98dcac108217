//! `fal.run/…/stream`: progress as server-sent events; the last event is the output. The job is cancelled if
//! the client disconnects.

use std::time::Duration;

use axum::response::Response;
use axum::response::sse::Event;
use serde_json::{Value, json};

use super::response::outcome;
use super::run::CancelOnDisconnect;
use super::set_request_id;
use crate::pipeline::report::Stage;
use crate::server::app::{App, Caller};
use crate::server::jobs::{LiveState, StageProgress};
use crate::server::sse::{self, JobEvents, Poll, Update};

/// The response that streams the job's progress and output.
pub fn stream(app: App, caller: Caller, id: String, guard: CancelOnDisconnect) -> Response {
    let source = OutputEvents { caller, id: id.clone(), guard: Some(guard) };
    let mut response = sse::response(app, source);
    set_request_id(&mut response, &id);
    response
}

struct OutputEvents {
    caller: Caller,
    id: String,
    /// Absent once the job has ended.
    guard: Option<CancelOnDisconnect>,
}

impl JobEvents for OutputEvents {
    const MIN_INTERVAL: Duration = Duration::ZERO;

    async fn poll(&mut self, app: &App) -> Poll {
        if let Some(live) = app.jobs.live(&self.id) {
            let progress = progress(live, &app.jobs.stages(&self.id));
            let event = Event::default().data(progress.to_string());
            return Poll::Update(Update { state: progress, has_news: false, is_last: false, event });
        }
        let Ok(job) = app.job(&self.caller, &self.id, "request").await else { return Poll::End };
        if !job.state.is_final() {
            return Poll::Pending;
        }
        if let Some(guard) = self.guard.take() {
            guard.disarm();
        }
        let output = outcome(&job).1;
        let event = Event::default().data(output.to_string());
        Poll::Update(Update { state: output, has_news: false, is_last: true, event })
    }
}

/// The progress of an unfinished job: a fraction and a message.
fn progress(live: LiveState, stages: &[StageProgress]) -> Value {
    if let LiveState::Queued { position } = live {
        return json!({"progress": 0.0, "message": format!("{position} before this one")});
    }
    // The stages run concurrently; denoising takes most of the time.
    let denoising = stages.iter().find(|stage| stage.stage == Stage::DenoiseLatents);
    match denoising.and_then(|stage| Some((stage.done, stage.total?))) {
        Some((done, total)) => {
            let fraction = done as f64 / total.max(1) as f64;
            json!({"progress": (fraction * 100.0).round() / 100.0, "message": Stage::DenoiseLatents.name()})
        }
        None => json!({"progress": 0.0, "message": "preparing"}),
    }
}
