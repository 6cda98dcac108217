//! Webhook deliveries: sends the vendor's message when a job has ended, and retries as the vendor does.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use url::Url;

use super::app::App;
use super::jobs::{Attempt, Delivery, Endpoint, JobRecord, LogLine, now};
use super::outbound::cause;
use super::vendor::{EndedJob, Message, Vendor};
use crate::request::Api;

/// How often the database is polled for due deliveries, beside when a job changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest pause between two polls, since jobs change often.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Concurrent deliveries, in total and per host, so that a slow host does not delay the others.
const MAX_CONCURRENT: usize = 64;
const MAX_CONCURRENT_PER_HOST: usize = 4;
/// Due deliveries that one poll reads.
const MAX_DUE: u32 = 1000;
/// Bytes of a response body that are kept in the log.
const MAX_RESPONSE_BYTES: usize = 1024;

/// Finds the vendor of an API.
pub type VendorOf = fn(Api) -> Option<&'static dyn Vendor>;

/// Delivers until the server ends.
pub async fn run(app: App, vendor_of: VendorOf) {
    let mut changes = app.jobs.changes();
    let mut sending = JoinSet::new();
    let mut in_flight = InFlight::default();
    while !app.jobs.is_closed() {
        let due = app
            .blocking(|app| Ok(app.jobs.store.due_deliveries(now(), MAX_CONCURRENT_PER_HOST, MAX_DUE)?))
            .await;
        for delivery in due.unwrap_or_default() {
            if in_flight.has_room_for(&delivery) {
                let task = sending.spawn(deliver(app.clone(), vendor_of, delivery.clone()));
                in_flight.add(task.id(), &delivery);
            }
        }
        tokio::select! {
            Some(ended) = sending.join_next_with_id() => {
                in_flight.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            _ = changes.changed() => tokio::time::sleep(MIN_POLL_INTERVAL).await,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

/// The deliveries that are being sent, by task: identifier and host.
#[derive(Default)]
struct InFlight(HashMap<Id, (i64, String)>);

impl InFlight {
    fn has_room_for(&self, delivery: &Delivery) -> bool {
        let host = host(&delivery.url);
        self.0.len() < MAX_CONCURRENT
            && self.0.values().all(|(id, _)| *id != delivery.id)
            && self.0.values().filter(|(_, other)| *other == host).count() < MAX_CONCURRENT_PER_HOST
    }

    fn add(&mut self, task: Id, delivery: &Delivery) {
        self.0.insert(task, (delivery.id, host(&delivery.url)));
    }

    fn remove(&mut self, task: Id) {
        self.0.remove(&task);
    }
}

fn host(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_string)).unwrap_or_default()
}

/// Makes one attempt. It is recorded before it is made, so that a database that cannot be written to never
/// causes repeated deliveries.
async fn deliver(app: App, vendor_of: VendorOf, mut delivery: Delivery) {
    let Some(context) = Context::load(&app, &delivery).await else {
        tokio::time::sleep(POLL_INTERVAL).await;
        return;
    };
    let Some(vendor) = vendor_of(context.job.api) else { return };
    let policy = vendor.webhook_policy();
    let pause = policy.retry_seconds.get(delivery.attempts as usize);
    let retry_at = || pause.map(|&seconds| now() + seconds as i64 * 1000);
    delivery.attempts += 1;
    // If the server ends during this attempt, there is another one, even after the last.
    delivery.next_at = retry_at().or(Some(now() + 2 * policy.timeout.as_millis() as i64));
    let claimed = delivery.clone();
    if app.blocking(move |app| Ok(app.jobs.store.claim_delivery(&claimed)?)).await.is_err() {
        tokio::time::sleep(POLL_INTERVAL).await;
        return;
    }
    let was_removed = delivery.endpoint.is_some() && context.endpoint.is_none();
    let message = if was_removed { None } else { vendor.webhook_message(&context.ended(&app)) };
    let attempt = match message {
        Some(message) => send(&app, &delivery.url, message, policy.timeout).await,
        None => Attempt { error: Some("the endpoint was removed".to_string()), ..Attempt::at(now()) },
    };
    delivery.next_at = retry_at().filter(|_| !attempt.succeeded() && !was_removed);
    delivery.delivered_at = attempt.succeeded().then(now);
    record(&app, context.job.id, delivery, attempt).await;
}

/// What a delivery needs from the database.
struct Context {
    job: JobRecord,
    logs: Vec<LogLine>,
    endpoint: Option<Endpoint>,
}

impl Context {
    /// `None` if the job was deleted or the database cannot be read.
    async fn load(app: &App, delivery: &Delivery) -> Option<Self> {
        let (id, endpoint) = (delivery.job.clone(), delivery.endpoint.clone());
        let loaded = app.blocking(move |app| {
            let endpoint = endpoint.map(|id| app.jobs.store.endpoint(&id)).transpose()?.flatten();
            Ok((app.jobs.store.get(&id)?, endpoint, app.jobs.store.logs(&id)?))
        });
        let (job, endpoint, logs) = loaded.await.ok()?;
        Some(Self { job: job?, logs, endpoint })
    }

    fn ended<'a>(&'a self, app: &'a App) -> EndedJob<'a> {
        EndedJob {
            job: &self.job,
            logs: &self.logs,
            endpoint: self.endpoint.as_ref(),
            signer: &app.signer,
            files: &app.jobs.files,
        }
    }
}

/// Records the result of an attempt.
async fn record(app: &App, job: String, delivery: Delivery, attempt: Attempt) {
    if !attempt.succeeded() {
        let problem = attempt.error.as_deref().unwrap_or("no success status");
        tracing::warn!(job, attempt = delivery.attempts, status = attempt.status, "webhook: {problem}");
    }
    if app.blocking(move |app| Ok(app.jobs.store.note_delivery(&delivery, &attempt)?)).await.is_err() {
        tracing::error!(job, "the result of a webhook delivery cannot be recorded");
    }
}

async fn send(app: &App, url: &str, message: Message, timeout: Duration) -> Attempt {
    let attempt = Attempt::at(now());
    let request = match app.outbound.post(url, message.body, timeout) {
        Ok(request) => request.headers(message.headers),
        Err(problem) => return Attempt { error: Some(problem), ..attempt },
    };
    match request.send().await {
        Ok(mut response) => {
            let mut body = Vec::new();
            while body.len() < MAX_RESPONSE_BYTES
                && let Ok(Some(chunk)) = response.chunk().await
            {
                body.extend_from_slice(&chunk[..chunk.len().min(MAX_RESPONSE_BYTES - body.len())]);
            }
            let status = Some(response.status().as_u16());
            Attempt { status, response: Some(String::from_utf8_lossy(&body).into_owned()), ..attempt }
        }
        Err(error) => Attempt { error: Some(cause(&error)), ..attempt },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deliveries_are_limited_per_host_and_never_sent_twice_at_a_time() {
        let mut in_flight = InFlight::default();
        let mut tasks = JoinSet::new();
        let delivery = |id: i64, url: &str| Delivery {
            id,
            job: String::new(),
            url: url.to_string(),
            endpoint: None,
            created_at: 0,
            attempts: 0,
            next_at: Some(0),
            delivered_at: None,
        };
        for id in 0..MAX_CONCURRENT_PER_HOST as i64 {
            let slow = delivery(id, &format!("http://slow.example/{id}"));
            assert!(in_flight.has_room_for(&slow));
            in_flight.add(tasks.spawn(std::future::pending::<()>()).id(), &slow);
            assert!(!in_flight.has_room_for(&slow), "it is being sent");
        }
        assert!(!in_flight.has_room_for(&delivery(99, "http://slow.example/99")));
        assert!(in_flight.has_room_for(&delivery(99, "http://fast.example/99")));
    }
}
