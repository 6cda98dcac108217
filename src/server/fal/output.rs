//! `fal.run/…/stream`: how far the work is, as server-sent events; the last one is the output. A client that goes away
//! takes its job with it.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::run::Visitor;
use super::with_id;
use crate::pipeline::report::Stage;
use crate::server::app::{App, Caller};
use crate::server::fal::response::outcome;
use crate::server::jobs::{Live, StageProgress};

/// JavaScript's client gives up after 15 seconds of silence.
const AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// The work on a job, for as long as its visitor stays.
pub fn stream(app: App, caller: Caller, id: String, visitor: Visitor) -> Response {
    let known = id.clone();
    let work = Work { app, caller, id, visitor: Some(visitor), told: None };
    let events = stream::unfold(work, |mut work| async move {
        let body = work.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(body.to_string())), work))
    });
    let mut response = Sse::new(events).into_response();
    with_id(&mut response, &known);
    response
}

struct Work {
    app: App,
    caller: Caller,
    id: String,
    /// Absent once the job has ended and that was told.
    visitor: Option<Visitor>,
    told: Option<Value>,
}

impl Work {
    async fn next(&mut self) -> Option<Value> {
        self.visitor.as_ref()?;
        let mut changes = self.app.jobs.changes();
        let silent_until = tokio::time::Instant::now() + AT_LEAST_EVERY;
        loop {
            changes.mark_unchanged();
            let jobs = &self.app.jobs;
            let progress = jobs.live(&self.id).map(|live| progress(live, &jobs.stages(&self.id)));
            if progress.is_none() {
                let job = self.app.job(&self.caller, &self.id, "request").await.ok()?;
                if job.state.is_final() {
                    self.visitor.take()?.stays();
                    return Some(outcome(&job).1);
                }
            }
            let silent = tokio::time::Instant::now() >= silent_until;
            if let Some(progress) = progress
                && (silent || self.told.as_ref() != Some(&progress))
            {
                self.told = Some(progress.clone());
                return Some(progress);
            }
            if self.app.jobs.is_closed() {
                return None;
            }
            let _ = tokio::time::timeout_at(silent_until, changes.changed()).await;
        }
    }
}

/// An unfinished job in numbers and in words.
fn progress(live: Live, stages: &[StageProgress]) -> Value {
    if let Live::Queued { position } = live {
        return json!({"progress": 0.0, "message": format!("{position} before this one")});
    }
    // The stages run side by side; this is the one that takes the time.
    let denoising = stages.iter().find(|stage| stage.stage == Stage::DenoiseLatents);
    match denoising.and_then(|stage| Some((stage.done, stage.total?))) {
        Some((done, total)) => {
            let part = done as f64 / total.max(1) as f64;
            json!({"progress": (part * 100.0).round() / 100.0, "message": Stage::DenoiseLatents.name()})
        }
        None => json!({"progress": 0.0, "message": "preparing"}),
    }
}
