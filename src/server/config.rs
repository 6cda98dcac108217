//! The server's configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::jobs::Limits;
use super::jobs::clean::Keep;
use super::keys::Keys;
use crate::input::{AddressPolicy, FetchLimits};
use crate::options::Options;

/// The server's configuration; the defaults are those of the command line.
#[derive(Clone)]
pub struct ServerConfig {
    pub data_dir: PathBuf,
    /// The name of the model on the command line, which the page shows.
    pub model: Option<String>,
    /// The URL by which clients reach this server behind a proxy; by default, the host of each request.
    pub public_url: Option<String>,
    pub keys: Keys,
    pub limits: Limits,
    pub keep: Keep,
    pub fetch: FetchLimits,
    /// Where inputs may be fetched from and webhooks sent to.
    pub addresses: AddressPolicy,
    /// Bytes of a request's body without files, and of a job's body in the database.
    pub max_body: usize,
    /// Bytes of an uploaded file.
    pub max_upload: u64,
    /// Timeout for a request's head.
    pub head_timeout: Duration,
    /// Grace period of the minimum rate at which a body must arrive.
    pub body_grace: Duration,
    /// Concurrent connections.
    pub max_connections: usize,
    /// Timeout of a request in wavespeed's sync mode.
    pub sync_mode: Duration,
    /// The options that a request does not set.
    pub defaults: Options,
    /// The model is unloaded after this long without jobs; never if absent.
    pub idle_unload: Option<Duration>,
    /// Serve HTTPS.
    pub tls: Option<Tls>,
}

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl ServerConfig {
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            model: None,
            public_url: None,
            keys: Keys::default(),
            limits: Limits::default(),
            keep: Keep::default(),
            fetch: FetchLimits::default(),
            addresses: AddressPolicy::PublicOnly,
            max_body: 1 << 20,
            max_upload: 4 << 30,
            head_timeout: Duration::from_secs(15),
            body_grace: Duration::from_secs(30),
            max_connections: 1024,
            sync_mode: Duration::from_secs(600),
            defaults: Options::default(),
            idle_unload: None,
            tls: None,
        }
    }
}
