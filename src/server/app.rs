//! The state that handlers share, and the caller of a request.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::Value;

use super::config::ServerConfig;
use super::jobs::metrics::Metrics;
use super::jobs::{JobRecord, Jobs, NewJob, Priority, Webhook};
use super::limits::rate_limit::RateLimiter;
use super::origin::base_url;
use super::outbound::Outbound;
use super::problem::Problem;
use super::signing::Signer;
use crate::request::{Api, FieldError, Request};

/// The state of every handler.
#[derive(Clone)]
pub struct App(pub Arc<Shared>);

/// The parts of the server.
pub struct Shared {
    pub config: ServerConfig,
    pub jobs: Arc<Jobs>,
    pub outbound: Outbound,
    pub signer: Signer,
    pub metrics: Arc<Metrics>,
    pub api_limits: Vec<ApiLimits>,
}

/// A vendor's limits on submissions, beside the server's own.
pub struct ApiLimits {
    /// The request formats whose jobs are counted together.
    pub apis: &'static [Api],
    /// Jobs per key and minute, and what the vendor calls its jobs.
    pub rate: Option<(RateLimiter, &'static str)>,
    pub max_unfinished_per_key: Option<usize>,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The owner of a request, and the address it was sent to.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Identifies the API key; empty if the server requires none.
    pub owner: String,
    /// `https://host:port`, without a trailing slash.
    pub base_url: String,
}

impl Caller {
    /// A job of this caller's, without webhook and with normal priority. `body` is the vendor's request body,
    /// which has been parsed to `request`.
    pub fn job(&self, request: Request, body: &Value) -> NewJob {
        NewJob {
            request,
            raw: body.to_string(),
            owner: self.owner.clone(),
            base_url: self.base_url.clone(),
            webhook: None,
            priority: Priority::Normal,
            start_by: None,
        }
    }
}

impl App {
    /// Runs blocking work on the blocking pool.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let app = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&app)).await;
        done.unwrap_or_else(|error| {
            tracing::error!("blocking work of a request failed: {error}");
            Err(Problem::Server("internal error".to_string()))
        })
    }

    /// A webhook whose URL is allowed. `field` is its name in the request, for the error.
    pub fn webhook(&self, field: &str, url: &str, secret: Option<&str>) -> Result<Webhook, FieldError> {
        self.outbound.checked(url).map_err(|problem| FieldError::new(field, &problem))?;
        Ok(Webhook { url: url.to_string(), secret: secret.map(str::to_string) })
    }

    /// Accepts a job and returns its identifier. Its webhook must come from [`Self::webhook`].
    pub async fn submit(&self, job: NewJob) -> Result<String, Problem> {
        let (api, owner) = (job.request.api, job.owner.clone());
        let limits = self.api_limits.iter().find(|limits| limits.apis.contains(&api));
        let rate = limits.and_then(|limits| limits.rate.as_ref());
        if let Some((limit, noun)) = rate.filter(|(limit, _)| !limit.admit(&owner)) {
            return Err(Problem::Busy(format!("more than {} {noun} in a minute", limit.limit())));
        }
        let accepted = self.store(job, limits.and_then(|limits| limits.max_unfinished_per_key)).await;
        match &accepted {
            // Within the request's span: the only log line with both identifiers.
            Ok(id) => tracing::info!(job = id, api = api.name(), "accepted"),
            Err(_) => {
                if let Some((limit, _)) = rate {
                    limit.take_back(&owner);
                }
            }
        }
        accepted
    }

    async fn store(&self, job: NewJob, max_unfinished: Option<usize>) -> Result<String, Problem> {
        if job.raw.len() > self.config.max_body {
            return Err(Problem::TooLarge);
        }
        self.blocking(move |app| Ok(app.jobs.submit(&job, max_unfinished)?)).await
    }

    /// A job of the caller. Jobs of others are not found; `what` is the vendor's word for a job.
    pub async fn job(&self, caller: &Caller, id: &str, what: &'static str) -> Result<JobRecord, Problem> {
        let (id, owner, base_url) = (id.to_string(), caller.owner.clone(), caller.base_url.clone());
        self.blocking(move |app| {
            let job = app.jobs.store.get(&id)?.filter(|job| job.owner == owner);
            Ok(job.ok_or(Problem::NotFound(what))?.with_base_url(&base_url))
        })
        .await
    }

    /// Waits until a job has ended, and returns it.
    pub async fn wait(&self, caller: &Caller, id: &str) -> Result<JobRecord, Problem> {
        let mut changes = self.jobs.changes();
        loop {
            changes.mark_unchanged();
            if self.jobs.live(id).is_none() {
                let job = self.job(caller, id, "job").await?;
                if job.state.is_final() {
                    return Ok(job);
                }
            }
            if self.jobs.is_closed() || changes.changed().await.is_err() {
                return Err(Problem::ShuttingDown);
            }
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let owner = app.config.keys.owner(&parts.headers).ok_or(Problem::Unauthorised)?;
        Ok(Self { owner, base_url: base_url(parts, &app.config)? })
    }
}
