//! A hosted API that the server implements, as the rest of the server sees it. The implementations and their
//! table are in [`vendors`](super::vendors).

use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::Value;

use super::jobs::{DataDir, Endpoint, JobRecord, LogLine, Outcome};
use super::problem::Problem;
use super::routes::Routes;
use super::signing::Signer;
use crate::request::Api;
use crate::server::Result;

/// A vendor of a hosted lip-sync API. One value may stand for several of its models, each with an [`Api`] of
/// its own.
pub trait Vendor: Sync {
    /// The vendor's name in the OpenAPI document.
    fn name(&self) -> &'static str;

    /// The request formats whose jobs are this vendor's.
    fn apis(&self) -> &'static [Api];

    /// Routes, handlers and OpenAPI operations. Problems that handlers return are formatted by
    /// [`Self::error_response`].
    fn routes(&self) -> Routes;

    /// The OpenAPI schemas that the operations refer to. `max_upload` is the server's limit in bytes.
    fn schemas(&self, max_upload: u64) -> Value;

    /// The OpenAPI operation of the webhook message.
    fn webhook_operation(&self) -> Value;

    /// The vendor's error body and status for `problem`.
    fn error_response(&self, problem: &Problem) -> Response;

    /// Timeout and retries of a webhook delivery.
    fn webhook_policy(&self) -> WebhookPolicy;

    /// The signed webhook message of a job that has ended; `None` if there is nothing to send.
    fn webhook_message(&self, ended: &EndedJob<'_>) -> Option<Message>;

    /// The file name that a request body asks for; `None` for the default.
    fn output_name(&self, _body: &Value) -> Option<String> {
        None
    }

    /// How many jobs a key may create a minute; `None` for no limit.
    fn rate_limit(&self) -> Option<RateLimit> {
        None
    }

    /// How many unfinished jobs a key may have with this vendor; `None` for the server's own limit.
    fn max_unfinished_per_key(&self) -> Option<usize> {
        None
    }

    /// The name of the secret that signs this vendor's messages, if the server keeps one. See [`Signer`].
    fn secret_name(&self) -> Option<&'static str> {
        None
    }

    /// Response headers that web pages of other origins may read.
    fn exposed_headers(&self) -> &'static [HeaderName] {
        &[]
    }

    /// Runs after the engine has written `result` and before it is published. A failure is logged and does
    /// not fail the job.
    fn after_success(&self, _job: &JobRecord, _result: &Path, _files: &DataDir) -> Result<()> {
        Ok(())
    }

    /// The event that a job's end is for the webhook endpoints its owner has registered; `None` if there are
    /// no such endpoints.
    fn endpoint_event(&self, _outcome: &Outcome) -> Option<&'static str> {
        None
    }
}

/// How many jobs a key may create a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub per_minute: usize,
    /// What the vendor calls its jobs, in the plural.
    pub noun: &'static str,
}

/// Timeout and retries of a webhook delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookPolicy {
    /// How long to wait for a response.
    pub timeout: Duration,
    /// Seconds to wait before each retry.
    pub retry_seconds: &'static [u64],
}

/// A job that has ended, and what its webhook message is made from.
pub struct EndedJob<'a> {
    pub job: &'a JobRecord,
    pub logs: &'a [LogLine],
    /// The registered endpoint that the message goes to; absent for the job's own webhook.
    pub endpoint: Option<&'a Endpoint>,
    pub signer: &'a Signer,
    pub files: &'a DataDir,
}

/// A webhook message: JSON body and headers.
pub struct Message {
    pub body: Vec<u8>,
    pub headers: HeaderMap,
}

impl Message {
    pub fn new(body: &Value) -> Self {
        Self { body: body.to_string().into_bytes(), headers: HeaderMap::new() }
    }

    /// Adds a header. A value that is not visible ASCII is left out.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}
