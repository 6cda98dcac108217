//! Tells those who asked when a job has ended: each vendor's message, signature and patience.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::{Id, JoinSet};
use url::Url;

use super::app::App;
use super::jobs::{Attempt, Delivery, Endpoint, JobRecord, LogLine, now};
use super::outbound::cause;
use super::{eachlabs, fal, jogg, sync_so, wavespeed};
use crate::request::Api;

/// How often the database is asked for deliveries whose time has come, beside when a job ends.
const EVERY: Duration = Duration::from_secs(1);
/// Jobs come and move often; the database is not asked more often than this.
const AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// Deliveries on their way at a time, in all and to one host: a slow one does not hold up the others.
const AT_ONCE: usize = 64;
const AT_ONCE_PER_HOST: usize = 4;
/// Deliveries that are looked at for the next to send.
const LOOKED_AT: u32 = 1000;
/// How much of an answer is kept in the log.
const KEPT: usize = 1024;

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
        Api::Fal | Api::FalLipsync => (15, &[10, 20, 40, 80, 160, 320, 640, 1280, 1920, 2400]),
        Api::Eachlabs => (30, &[30, 120, 600]),
        // How often and when is not documented: a few repetitions within ten minutes.
        Api::Jogg => (5, &[30, 120, 450]),
        Api::WavespeedLatentsync | Api::WavespeedLipsync | Api::SyncSo => (15, &[30, 120, 450]),
    };
    Patience { answer: Duration::from_secs(answer), again }
}

/// Delivers until the server ends.
pub async fn run(app: App) {
    let mut changes = app.jobs.changes();
    let mut sending = JoinSet::new();
    let mut under_way = UnderWay::default();
    while !app.jobs.is_closed() {
        let due =
            app.blocking(|app| Ok(app.jobs.store.due_deliveries(now(), AT_ONCE_PER_HOST, LOOKED_AT)?)).await;
        for delivery in due.unwrap_or_default() {
            if under_way.has_room_for(&delivery) {
                let task = sending.spawn(deliver(app.clone(), delivery.clone()));
                under_way.add(task.id(), &delivery);
            }
        }
        tokio::select! {
            Some(ended) = sending.join_next_with_id() => {
                under_way.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            _ = changes.changed() => tokio::time::sleep(AT_MOST_EVERY).await,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What is being sent, by task: the delivery, and to which host.
#[derive(Default)]
struct UnderWay(HashMap<Id, (i64, String)>);

impl UnderWay {
    fn has_room_for(&self, delivery: &Delivery) -> bool {
        let host = host(&delivery.url);
        self.0.len() < AT_ONCE
            && self.0.values().all(|(id, _)| *id != delivery.id)
            && self.0.values().filter(|(_, other)| *other == host).count() < AT_ONCE_PER_HOST
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

/// One attempt. That it is made is noted before, so that a database that cannot be written never makes it come again
/// and again.
async fn deliver(app: App, mut delivery: Delivery) {
    let (id, endpoint) = (delivery.job.clone(), delivery.endpoint.clone());
    let known = app.blocking(move |app| {
        let endpoint = endpoint.map(|id| app.jobs.store.endpoint(&id)).transpose()?.flatten();
        Ok((app.jobs.store.get(&id)?, endpoint, app.jobs.store.logs(&id)?))
    });
    let Ok((Some(job), endpoint, logs)) = known.await else {
        tokio::time::sleep(EVERY).await;
        return;
    };
    let patience = patience(job.api);
    let pause = patience.again.get(delivery.attempts as usize);
    let later = || pause.map(|&seconds| now() + seconds as i64 * 1000);
    delivery.attempts += 1;
    // If nothing more is heard of this attempt, there is another one, also after the last.
    delivery.next_at = later().or(Some(now() + 2 * patience.answer.as_millis() as i64));
    let claimed = delivery.clone();
    if app.blocking(move |app| Ok(app.jobs.store.claim_delivery(&claimed)?)).await.is_err() {
        tokio::time::sleep(EVERY).await;
        return;
    }
    let gone = delivery.endpoint.is_some() && endpoint.is_none();
    let attempt = match message(&app, &job, endpoint.as_ref(), &logs).filter(|_| !gone) {
        Some(message) => send(&app, &delivery.url, message, patience.answer).await,
        None => Attempt { error: Some("the endpoint was removed".to_string()), ..Attempt::at(now()) },
    };
    delivery.next_at = later().filter(|_| !attempt.succeeded() && !gone);
    delivery.delivered_at = attempt.succeeded().then(now);
    if !attempt.succeeded() {
        let problem = attempt.error.as_deref().unwrap_or("no success");
        tracing::warn!(
            job = job.id,
            attempt = delivery.attempts,
            status = attempt.status,
            "webhook: {problem}"
        );
    }
    if app.blocking(move |app| Ok(app.jobs.store.note_delivery(&delivery, &attempt)?)).await.is_err() {
        tracing::error!(job = job.id, "a webhook's delivery cannot be noted");
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
            while body.len() < KEPT
                && let Ok(Some(piece)) = response.chunk().await
            {
                body.extend_from_slice(&piece[..piece.len().min(KEPT - body.len())]);
            }
            let status = Some(response.status().as_u16());
            Attempt { status, response: Some(String::from_utf8_lossy(&body).into_owned()), ..attempt }
        }
        Err(error) => Attempt { error: Some(cause(&error)), ..attempt },
    }
}

/// What the vendor says of a job that has ended. JoggAI says it to registered endpoints only.
pub fn message(app: &App, job: &JobRecord, endpoint: Option<&Endpoint>, logs: &[LogLine]) -> Option<Message> {
    Some(match job.api {
        Api::Fal | Api::FalLipsync => fal::webhook(app, job),
        Api::Eachlabs => eachlabs::webhook(job, logs),
        Api::WavespeedLatentsync | Api::WavespeedLipsync => wavespeed::webhook(app, job),
        Api::SyncSo => sync_so::webhook(app, job),
        Api::Jogg => jogg::webhook(app, job, endpoint?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_takes_few_places_and_a_delivery_one() {
        let mut under_way = UnderWay::default();
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
        for id in 0..AT_ONCE_PER_HOST as i64 {
            let slow = delivery(id, &format!("http://slow.example/{id}"));
            assert!(under_way.has_room_for(&slow));
            under_way.add(tasks.spawn(std::future::pending::<()>()).id(), &slow);
            assert!(!under_way.has_room_for(&slow), "it is on its way");
        }
        assert!(!under_way.has_room_for(&delivery(99, "http://slow.example/99")));
        assert!(under_way.has_room_for(&delivery(99, "http://fast.example/99")));
    }
}
