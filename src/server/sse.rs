//! Server-sent events about a job: an event whenever it changes, and one every few seconds so that clients
//! know the connection is alive.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::app::App;

/// Longest pause between two events: fal's JavaScript client gives up after 15 seconds without one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What a stream of events is made from.
pub trait JobEvents: Send + 'static {
    /// Shortest pause between two looks at the job.
    const MIN_INTERVAL: Duration;

    /// The job's present state.
    fn poll(&mut self, app: &App) -> impl Future<Output = Poll> + Send;
}

/// What [`JobEvents::poll`] found.
pub enum Poll {
    Update(Update),
    /// There is nothing to send now.
    Pending,
    /// Nothing can be sent any more.
    End,
}

/// A job's state and the event that would report it.
pub struct Update {
    /// Compared with the last event's: an unchanged state is sent only to keep the connection alive.
    pub state: Value,
    /// The event reports something that is not in `state`, such as new log lines.
    pub has_news: bool,
    /// The job has ended: this event is the last.
    pub is_last: bool,
    pub event: Event,
}

/// The response that streams the events of `source` until the job has ended or the server shuts down.
pub fn response<S: JobEvents>(app: App, source: S) -> Response {
    let watch = Watch { app, source, sent: None, ended: false };
    let events = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    Sse::new(events).into_response()
}

struct Watch<S> {
    app: App,
    source: S,
    /// The state of the last event.
    sent: Option<Value>,
    ended: bool,
}

impl<S: JobEvents> Watch<S> {
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let mut changes = self.app.jobs.changes();
        let keep_alive_at = Instant::now() + KEEP_ALIVE;
        loop {
            changes.mark_unchanged();
            match self.source.poll(&self.app).await {
                Poll::Update(update) => {
                    let is_due = Instant::now() >= keep_alive_at;
                    let has_changed = self.sent.as_ref() != Some(&update.state);
                    if update.is_last || update.has_news || is_due || has_changed {
                        self.ended = update.is_last;
                        self.sent = Some(update.state);
                        return Some(update.event);
                    }
                }
                Poll::Pending => {}
                Poll::End => return None,
            }
            if self.app.jobs.is_closed() {
                return None;
            }
            sleep(S::MIN_INTERVAL).await;
            // A timeout only means that the keep-alive is due.
            let _ = timeout_at(keep_alive_at, changes.changed()).await;
        }
    }
}
