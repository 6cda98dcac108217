//! Tells those who asked when a job has ended: each vendor's message, signature and patience.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinSet;

use super::app::App;
use super::jobs::{Delivery, JobRecord, now};
use super::outbound::cause;
use super::problem::Problem;
use super::{eachlabs, fal, sync_so, wavespeed};
use crate::request::Api;

/// How often the database is asked for deliveries whose time has come, beside when a job ends.
const EVERY: Duration = Duration::from_secs(1);
/// Deliveries on their way at a time.
const AT_ONCE: u32 = 16;

/// A message as a vendor sends it.
pub struct Message {
    pub body: Vec<u8>,
    pub headers: HeaderMap,
}

impl Message {
    pub fn new(body: &serde_json::Value) -> Self {
        Self { body: body.to_string().into_bytes(), headers: HeaderMap::new() }
    }

    /// A header that is made of digits, letters and the like.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// How long a vendor waits for an answer, and after how many seconds it tries again.
struct Patience {
    answer: Duration,
    again: &'static [u64],
}

fn patience(api: Api) -> Patience {
    let (answer, again): (u64, &[u64]) = match api {
        // Ten repetitions within two hours.
        Api::Fal => (15, &[10, 20, 40, 80, 160, 320, 640, 1280, 1920, 2400]),
        Api::Eachlabs => (30, &[30, 120, 600]),
        // Not documented: a few repetitions within ten minutes.
        Api::WavespeedLatentsync | Api::WavespeedLipsync | Api::Jogg | Api::SyncSo => (15, &[30, 120, 450]),
    };
    Patience { answer: Duration::from_secs(answer), again }
}

/// Delivers until the server ends.
pub async fn run(app: App) {
    let mut changes = app.jobs.changes();
    while !app.jobs.is_closed() {
        let due = app.blocking(|app| Ok(app.jobs.store.due_deliveries(now(), AT_ONCE)?)).await;
        let mut sending = JoinSet::new();
        for delivery in due.unwrap_or_default() {
            sending.spawn(deliver(app.clone(), delivery));
        }
        if sending.is_empty() {
            let _ = tokio::time::timeout(EVERY, changes.changed()).await;
        }
        while sending.join_next().await.is_some() {}
    }
}

async fn deliver(app: App, mut delivery: Delivery) {
    let id = delivery.job.clone();
    let job = app.blocking(move |app| Ok(app.jobs.store.get(&id)?)).await;
    let Ok(Some(job)) = job else { return };
    let patience = patience(job.api);
    let sent = send(&app, &job, patience.answer).await;
    delivery.attempts += 1;
    delivery.next_at = None;
    match sent {
        Ok(status) => {
            delivery.last_status = Some(status);
            delivery.last_error = None;
            delivery.delivered_at = Some(now());
        }
        Err(failed) => {
            tracing::warn!(job = job.id, attempt = delivery.attempts, "webhook: {}", failed.problem);
            delivery.last_status = failed.status;
            delivery.last_error = Some(failed.problem);
            let again = patience.again.get(delivery.attempts as usize - 1);
            delivery.next_at = again.map(|&seconds| now() + seconds as i64 * 1000);
        }
    }
    let noted: Result<(), Problem> =
        app.blocking(move |app| Ok(app.jobs.store.note_delivery(&delivery)?)).await;
    if noted.is_err() {
        tracing::error!(job = job.id, "a webhook's delivery cannot be noted");
    }
}

struct Failed {
    status: Option<u16>,
    problem: String,
}

async fn send(app: &App, job: &JobRecord, timeout: Duration) -> Result<u16, Failed> {
    let failed = |problem| Failed { status: None, problem };
    let webhook = job.webhook.as_ref().ok_or_else(|| failed("the job has no webhook".to_string()))?;
    let message = message(app, job);
    let request = app.outbound.post(&webhook.url, message.body, timeout).map_err(failed)?;
    let response = request.headers(message.headers).send().await.map_err(|error| failed(cause(&error)))?;
    let status = response.status();
    match status.is_success() {
        true => Ok(status.as_u16()),
        false => Err(Failed { status: Some(status.as_u16()), problem: format!("answered {status}") }),
    }
}

fn message(app: &App, job: &JobRecord) -> Message {
    match job.api {
        Api::Fal => fal::webhook(app, job),
        Api::Eachlabs => eachlabs::webhook(job),
        Api::WavespeedLatentsync | Api::WavespeedLipsync => wavespeed::webhook(app, job),
        // JoggAI documents no event for lip sync: its jobs have no webhook.
        Api::SyncSo | Api::Jogg => sync_so::webhook(app, job),
    }
}
