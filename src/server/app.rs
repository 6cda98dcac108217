//! What every handler has at hand: the server's parts, who asks, and what a request becomes.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use serde_json::Value;
use url::Url;

use super::config::ServerConfig;
use super::jobs::{JobRecord, Jobs, NewJob, Webhook};
use super::metrics::Metrics;
use super::outbound::Outbound;
use super::problem::Problem;
use super::rate::Rate;
use super::signing::Signer;
use crate::request::{Api, FieldError};

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

    /// Accepts a job. The body has been read as the vendor reads it.
    pub async fn submit(&self, caller: &Caller, order: Order) -> Result<String, Problem> {
        if let Some(webhook) = &order.webhook {
            self.outbound
                .checked(&webhook.url)
                .map_err(|problem| FieldError { field: "webhook".to_string(), problem })?;
        }
        let job = NewJob {
            api: order.api,
            owner: caller.owner.clone(),
            body: order.body,
            base_url: caller.base_url.clone(),
            webhook: order.webhook,
        };
        self.blocking(move |app| Ok(app.jobs.submit(&job, order.at_once)?)).await
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
                return Err(Problem::Server("the server is shutting down".to_string()));
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

/// Under which address the client knows this server.
///
/// A server that asks for no key is for this machine. It does not listen to web pages that a browser here shows:
/// neither to those whose name was made to point here, nor to those that simply send.
pub fn base_url(parts: &Parts, app: &App) -> Result<String, Problem> {
    let open = !app.config.keys.are_required();
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(Authority::as_str),
    };
    // Only what is a host may come back in a URL.
    let host =
        host.and_then(|host| host.parse::<Authority>().ok()).filter(|host| !host.as_str().contains('@'));
    let public = app.config.public_url.as_deref().map(|url| url.trim_end_matches('/').to_string());
    let is_public = |host: &str| {
        let public = public.as_deref().and_then(|url| Url::parse(url).ok());
        public.is_some_and(|public| public.host_str() == Some(host))
    };
    if open
        && let Some(host) = host.as_ref().map(Authority::host)
        && !(is_local_name(host) || is_address(host) || is_public(host))
    {
        return Err(Problem::Foreign(host.to_string()));
    }
    if open && let Some(origin) = parts.headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let from = Url::parse(origin).ok().and_then(|url| url.host_str().map(str::to_string));
        let from = from.unwrap_or_default();
        let same = host.as_ref().is_some_and(|host| host.host() == from);
        if !(same || is_local_name(&from) || is_public(&from)) {
            return Err(Problem::Foreign(origin.to_string()));
        }
    }
    if let Some(url) = public {
        return Ok(url);
    }
    let host = host.ok_or_else(|| Problem::Body("the request names no host".to_string()))?;
    let scheme = if app.config.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}

fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost") || matches!(host, "127.0.0.1" | "[::1]")
}

/// An address cannot be made to point elsewhere, as a name can.
fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}
