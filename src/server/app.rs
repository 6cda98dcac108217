//! What every handler has at hand: the server's parts, who asks, and what a request becomes.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde_json::Value;

use super::config::ServerConfig;
use super::jobs::{JobRecord, Jobs, NewJob, Priority, Webhook};
use super::metrics::Metrics;
use super::origin::base_url;
use super::outbound::Outbound;
use super::problem::Problem;
use super::signing::Signer;
use crate::request::{Api, FieldError};
use crate::server::limits::rate_limit::Rate;

/// The server, as its handlers share it.
#[derive(Clone)]
pub struct App(pub Arc<Shared>);

/// The server's parts.
pub struct Shared {
    pub config: ServerConfig,
    pub jobs: Arc<Jobs>,
    pub outbound: Outbound,
    pub signer: Signer,
    pub metrics: Arc<Metrics>,
    /// How often each key has created a prediction with eachlabs' API.
    pub creates: Rate,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Who asks, and how this server was addressed.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's mark; empty where no key is asked for.
    pub owner: String,
    /// `https://host:port`, without a slash at the end.
    pub base_url: String,
}

/// A request that is to become a job.
pub struct Order {
    pub api: Api,
    pub body: Value,
    pub webhook: Option<Webhook>,
    /// Unfinished jobs of one key that the API allows.
    pub at_once: Option<usize>,
    pub priority: Priority,
    /// When the job's turn must have come (milliseconds since 1970).
    pub start_by: Option<i64>,
}

impl Order {
    /// A plain one.
    pub fn new(api: Api, body: Value) -> Self {
        Self { api, body, webhook: None, at_once: None, priority: Priority::Normal, start_by: None }
    }
}

impl App {
    /// Runs what waits for the disk where it keeps nobody else waiting.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let app = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&app)).await;
        done.unwrap_or_else(|error| {
            tracing::error!("a request's work failed: {error}");
            Err(Problem::Server("internal error".to_string()))
        })
    }

    /// A webhook that may be told; `field` is its name in the request.
    pub fn webhook(&self, field: &str, url: &str, secret: Option<&str>) -> Result<Webhook, FieldError> {
        let refuse = |problem| FieldError { field: field.to_string(), problem };
        self.outbound.checked(url).map_err(refuse)?;
        Ok(Webhook { url: url.to_string(), secret: secret.map(str::to_string) })
    }

    /// Accepts a job. The body has been read as the vendor reads it, and its webhook is one of [`Self::webhook`]'s.
    pub async fn submit(&self, caller: &Caller, order: Order) -> Result<String, Problem> {
        if order.body.to_string().len() > self.config.max_body {
            return Err(Problem::TooLarge);
        }
        let job = NewJob {
            api: order.api,
            owner: caller.owner.clone(),
            body: order.body,
            base_url: caller.base_url.clone(),
            webhook: order.webhook,
            priority: order.priority,
            start_by: order.start_by,
        };
        let id = self.blocking(move |app| Ok(app.jobs.submit(&job, order.at_once)?)).await?;
        // Within the request's span: the one line that has both identifiers.
        tracing::info!(job = id, api = order.api.name(), "accepted");
        Ok(id)
    }

    /// A job of the caller's. Other people's jobs do not exist for it.
    pub async fn job(&self, caller: &Caller, id: &str, what: &'static str) -> Result<JobRecord, Problem> {
        let (id, owner, base_url) = (id.to_string(), caller.owner.clone(), caller.base_url.clone());
        self.blocking(move |app| {
            let job = app.jobs.store.get(&id)?.filter(|job| job.owner == owner);
            Ok(JobRecord { base_url, ..job.ok_or(Problem::NotFound(what))? })
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
        Ok(Self { owner, base_url: base_url(parts, app)? })
    }
}
