//! `latentsync serve`: the hosted APIs, answered by this machine. One file per vendor translates between its
//! vocabulary and the [`jobs`]; all of them share one port, one model and one queue.

mod error;
pub mod config;
pub mod jobs;
pub mod keys;
pub mod outbound;
pub mod fal;
pub mod eachlabs;
pub mod wavespeed;
pub mod jogg;
pub mod sync_so;
pub mod metrics;
mod page;
mod local;
mod app;
mod health;
mod limits;
mod listen;
mod media;
mod openapi;
mod origin;
mod problem;
mod reply;
mod signing;
mod webhooks;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{Request, StatusCode};
use axum::middleware::map_request;
use axum::response::Response;
use serde_json::json;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;

pub use config::{ServerConfig, Tls};
pub use listen::serve;

use app::{App, Shared};
pub use error::{Error, Result};
use jobs::engine::Engine;
use jobs::inputs::Inputs;
use jobs::worker::Worker;
use jobs::{DataDir, Jobs};
use limits::rate_limit::Rate;
use metrics::Metrics;
use outbound::Outbound;
use signing::Signer;

/// How often the data directory is cleaned.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked for jobs whose turn has not come in time.
const LATE_EVERY: Duration = Duration::from_millis(200);

/// A server that takes jobs. It has no port of its own: [`serve`] gives it one, tests call its router.
pub struct Server {
    app: App,
    worker: thread::JoinHandle<Result<()>>,
}

impl Server {
    /// Opens the data directory, takes up the jobs that it holds, and starts the worker.
    ///
    /// To be called within a runtime. [`Self::stop`] must follow, or jobs go on.
    pub fn start(config: ServerConfig, engine: Box<dyn Engine>) -> Result<Self> {
        let internal = |problem: String| Error::Internal(format!("the server cannot start: {problem}"));
        let jobs = Arc::new(Jobs::open(DataDir::open(&config.data_dir)?, config.limits)?);
        let metrics = Arc::new(Metrics::new().map_err(|error| internal(error.to_string()))?);
        let outbound = Outbound::new(&config.fetch, config.addresses).map_err(internal)?;
        let worker = Worker {
            jobs: jobs.clone(),
            inputs: Inputs { limits: config.fetch, addresses: config.addresses },
            defaults: config.defaults.clone(),
            idle_unload: config.idle_unload,
            keep: config.keep,
            metrics: metrics.clone(),
        };
        let app = App(Arc::new(Shared {
            signer: Signer::open(&jobs.store)?,
            config,
            jobs: jobs.clone(),
            outbound,
            metrics,
            creates: Rate::per_minute(eachlabs::CREATES_PER_MINUTE),
        }));
        let worker = thread::Builder::new()
            .name("jobs".to_string())
            .spawn(move || {
                // Without a worker there is no server, however it has ended.
                let _closing = CloseWhenDropped(worker.jobs.clone());
                worker.run(engine)
            })
            .map_err(|error| internal(error.to_string()))?;
        tokio::spawn(webhooks::run(app.clone()));
        tokio::spawn(clean(app.clone()));
        tokio::spawn(end_late(app.clone()));
        Ok(Self { app, worker })
    }

    /// Everything that the server answers.
    pub fn router(&self) -> Router {
        router(self.app.clone())
    }

    /// The jobs, for whoever wants to know when they close.
    pub fn jobs(&self) -> Arc<Jobs> {
        self.app.jobs.clone()
    }

    /// Stops the running job, which the next server starts again, and waits for the worker to end.
    pub fn stop(self) -> Result<()> {
        self.app.jobs.close();
        self.worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct CloseWhenDropped(Arc<Jobs>);

impl Drop for CloseWhenDropped {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn router(app: App) -> Router {
    let patience = app.config.body_patience;
    Router::new()
        .merge(health::router())
        .merge(openapi::router())
        .merge(media::router())
        .merge(eachlabs::router())
        .merge(wavespeed::router())
        .merge(jogg::router())
        .merge(sync_so::router())
        .merge(fal::router())
        .merge(local::router())
        .merge(page::router())
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(app.config.max_body))
        .layer(map_request(move |request| limits::slow_body::watch(request, patience)))
        .layer(origin::cors(&app))
        .layer(CatchPanicLayer::new())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_http().make_span_with(span).on_response(answered).on_failure(()))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(app)
}

/// What the log's lines about a request begin with. Queries and headers, which may hold secrets, stay out, and so do
/// files' names: whoever knows one may read the file.
fn span(request: &Request<Body>) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let path = if path.starts_with("/media/") { "/media/…" } else { path };
    tracing::info_span!("request", id, method = %request.method(), path)
}

/// Not being ready is no failure.
fn answered(response: &Response, took: Duration, _: &tracing::Span) {
    let (status, ms) = (response.status().as_u16(), took.as_millis() as u64);
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => tracing::debug!(status, ms, "answered"),
        failed if failed.is_server_error() => tracing::error!(status, ms, "answered"),
        _ => tracing::debug!(status, ms, "answered"),
    }
}

async fn unknown() -> Response {
    reply::json(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))
}

/// Cleans the data directory until the server ends.
async fn clean(app: App) {
    while !app.jobs.is_closed() {
        let cleaned = app.blocking(|app| Ok(jobs::clean::clean(&app.jobs, app.config.keep)?)).await;
        if let Err(problem) = cleaned {
            tracing::error!("the data directory cannot be cleaned: {}", problem.message());
        }
        tokio::time::sleep(CLEAN_EVERY).await;
    }
}

/// Ends jobs whose clients would wait no longer for their turn, until the server ends.
async fn end_late(app: App) {
    while !app.jobs.is_closed() {
        let late = app.jobs.late(jobs::now());
        if !late.is_empty()
            && let Err(problem) = app.blocking(move |app| Ok(app.jobs.end_late(&late)?)).await
        {
            tracing::error!("late jobs cannot be ended: {}", problem.message());
        }
        tokio::time::sleep(LATE_EVERY).await;
    }
}
