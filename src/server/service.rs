//! The server without its port: state, worker thread and background tasks.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;

use super::app::{ApiLimits, App, Shared};
use super::config::ServerConfig;
use super::jobs::engine::Engine;
use super::jobs::inputs::Inputs;
use super::jobs::metrics::Metrics;
use super::jobs::worker::Worker;
use super::jobs::{self, DataDir, Jobs};
use super::limits::rate_limit::RateLimiter;
use super::outbound::Outbound;
use super::router::router;
use super::signing::Signer;
use super::vendors::{VENDORS, VendorHooks, vendor_of};
use super::webhooks;
use crate::server::{Error, Result};

/// How often the data directory is cleaned.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60);
/// How often jobs are checked for their start timeouts.
const START_TIMEOUT_INTERVAL: Duration = Duration::from_millis(200);

/// A server that accepts and runs jobs. It has no port: [`serve`](super::serve) adds one, tests call its
/// router.
pub struct Server {
    app: App,
    worker: thread::JoinHandle<Result<()>>,
}

impl Server {
    /// Opens the data directory, resumes the jobs in it, and starts the worker.
    ///
    /// Must be called within a Tokio runtime. [`Self::stop`] must follow, or jobs keep running.
    pub fn start(config: ServerConfig, engine: Box<dyn Engine>) -> Result<Self> {
        let internal = |problem: String| Error::Internal(format!("the server cannot start: {problem}"));
        let files = DataDir::open(&config.data_dir)?;
        let jobs = Arc::new(Jobs::open(files, config.limits, &VendorHooks)?);
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
        let signer =
            Signer::open(&jobs.store, VENDORS.into_iter().filter_map(|vendor| vendor.secret_name()))?;
        let app = App(Arc::new(Shared { signer, config, jobs, outbound, metrics, api_limits: api_limits() }));
        let worker = thread::Builder::new()
            .name("jobs".to_string())
            .spawn(move || {
                // The server cannot do without its worker, however that has ended.
                let _closing = CloseOnDrop(worker.jobs.clone());
                worker.run(engine)
            })
            .map_err(|error| internal(error.to_string()))?;
        tokio::spawn(webhooks::run(app.clone(), vendor_of));
        tokio::spawn(clean(app.clone()));
        tokio::spawn(fail_late_jobs(app.clone()));
        Ok(Self { app, worker })
    }

    /// The router of every API and of the page.
    pub fn router(&self) -> Router {
        router(self.app.clone())
    }

    pub fn jobs(&self) -> Arc<Jobs> {
        self.app.jobs.clone()
    }

    /// Stops the running job, which the next server restarts, and waits for the worker to end.
    pub fn stop(self) -> Result<()> {
        self.app.jobs.close();
        self.worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Closes the queue when it is dropped.
struct CloseOnDrop(Arc<Jobs>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn api_limits() -> Vec<ApiLimits> {
    let limits = VENDORS.into_iter().map(|vendor| ApiLimits {
        apis: vendor.apis(),
        rate: vendor.rate_limit().map(|limit| (RateLimiter::per_minute(limit.per_minute), limit.noun)),
        max_unfinished_per_key: vendor.max_unfinished_per_key(),
    });
    limits.collect()
}

/// Cleans the data directory until the server ends.
async fn clean(app: App) {
    while !app.jobs.is_closed() {
        let cleaned = app.blocking(|app| Ok(jobs::clean::clean(&app.jobs, app.config.keep)?)).await;
        if let Err(problem) = cleaned {
            tracing::error!("the data directory cannot be cleaned: {}", problem.message());
        }
        tokio::time::sleep(CLEAN_INTERVAL).await;
    }
}

/// Fails jobs that have not started within their start timeouts, until the server ends.
async fn fail_late_jobs(app: App) {
    while !app.jobs.is_closed() {
        let late = app.jobs.late(jobs::now());
        if !late.is_empty()
            && let Err(problem) = app.blocking(move |app| Ok(app.jobs.end_late(&late)?)).await
        {
            tracing::error!("jobs with expired start timeouts cannot be ended: {}", problem.message());
        }
        tokio::time::sleep(START_TIMEOUT_INTERVAL).await;
    }
}
