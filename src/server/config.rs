//! What whoever starts the server decides.

use std::path::PathBuf;
use std::time::Duration;

use super::jobs::Limits;
use super::jobs::clean::Keep;
use super::keys::Keys;
use crate::input::{AddressPolicy, FetchLimits};
use crate::options::Options;

/// The server's settings; the defaults are those of the command line.
#[derive(Clone)]
pub struct ServerConfig {
    pub data_dir: PathBuf,
    /// What the model is called on the command line, for those who are to know.
    pub model: Option<String>,
    /// How clients address this server, where that is not what their requests say (behind a proxy).
    pub public_url: Option<String>,
    pub keys: Keys,
    pub limits: Limits,
    pub keep: Keep,
    pub fetch: FetchLimits,
    /// Where inputs may be fetched from and webhooks sent to.
    pub addresses: AddressPolicy,
    /// Bytes of a request's body that brings no file, and of a job's in the database.
    pub max_body: usize,
    /// Bytes of an uploaded file.
    pub max_upload: u64,
    /// How long a client may take to send a request's head.
    pub head_patience: Duration,
    /// How long a body may take to begin to come at a decent pace.
    pub body_patience: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// How long a request of wavespeed's sync mode stays open.
    pub sync_mode: Duration,
    /// What a request does not mention.
    pub defaults: Options,
    /// How long the model stays loaded without work; for ever if absent.
    pub idle_unload: Option<Duration>,
    /// Speak HTTPS.
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
            head_patience: Duration::from_secs(15),
            body_patience: Duration::from_secs(30),
            max_connections: 1024,
            sync_mode: Duration::from_secs(600),
            defaults: Options::default(),
            idle_unload: None,
            tls: None,
        }
    }
}
