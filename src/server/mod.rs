//! `latentsync serve`: the hosted APIs, answered by this machine. Each vendor, a directory in `vendors/`, translates between
//! its API and the [`jobs`]; all of them share one port, one model and one queue.

mod error;
pub mod config;
pub mod jobs;
pub mod keys;
pub mod outbound;
mod app;
mod health;
mod limits;
mod listen;
mod local;
mod media;
mod openapi;
mod origin;
mod page;
mod problem;
mod reply;
mod router;
mod routes;
mod service;
mod signing;
mod sse;
mod vendor;
mod vendors;
mod webhooks;

pub use config::{ServerConfig, Tls};
pub use error::{Error, Result};
pub use listen::serve;
pub use service::Server;
