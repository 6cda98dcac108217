//! The port: connections, TLS, limits, and graceful shutdown.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;

use super::config::{ServerConfig, Tls};
use super::jobs::engine::Engine;
use super::limits::connections::ConnectionLimit;
use super::limits::write_timeout::WithWriteTimeout;
use super::service::Server;
use super::{Error, Result};
use crate::system;
use crate::system::cancel::CancelToken;

/// How long open requests may continue after shutdown has begun.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How often the cancel token is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled or the model cannot be loaded.
pub fn serve(
    listener: TcpListener,
    config: ServerConfig,
    engine: Box<dyn Engine>,
    stop: &CancelToken,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Internal(format!("the server cannot start: {error}")))?;
    runtime.block_on(listen(listener, config, engine, stop))
}

async fn listen(
    listener: TcpListener,
    config: ServerConfig,
    engine: Box<dyn Engine>,
    stop: &CancelToken,
) -> Result<()> {
    let refuse = |source| Error::Listen { address: "the port".to_string(), source };
    listener.set_nonblocking(true).map_err(refuse)?;
    crate::system::tls::install_provider();
    let tls = match &config.tls {
        Some(tls) => Some(certificate(tls).await?),
        None => None,
    };
    let (max_connections, head_timeout) = (config.max_connections, config.head_timeout);
    let server = Server::start(config, engine)?;
    let handle = Handle::new();
    let service = ConnectionLimit::new(server.router(), max_connections);
    let ending = async {
        let jobs = server.jobs();
        while !stop.is_cancelled() && !jobs.is_closed() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        jobs.close();
        handle.graceful_shutdown(Some(SHUTDOWN_GRACE));
    };
    let serving = async {
        let served = accept(listener, tls, service, handle.clone(), head_timeout).await;
        // The server cannot do without its port.
        server.jobs().close();
        served
    };
    let (served, ()) = tokio::join!(serving, ending);
    let stopped = tokio::task::spawn_blocking(|| server.stop()).await;
    served.map_err(refuse)?;
    stopped.unwrap_or_else(|error| Err(Error::Internal(format!("the worker ended unexpectedly: {error}"))))
}

/// Accepts connections until `handle` shuts down. HTTP/1 only: every client supports it, and its head timeout
/// also covers connections that send nothing.
async fn accept(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    service: ConnectionLimit,
    handle: Handle<SocketAddr>,
    head_timeout: Duration,
) -> io::Result<()> {
    match tls {
        Some(tls) => {
            let port = axum_server::from_tcp_rustls(listener, tls)?.map(WithWriteTimeout);
            let mut port = port.handle(handle).http1_only();
            limit_head(port.http_builder(), head_timeout);
            port.serve(service).await
        }
        None => {
            let port = axum_server::from_tcp(listener)?.map(WithWriteTimeout);
            let mut port = port.handle(handle).http1_only();
            limit_head(port.http_builder(), head_timeout);
            port.serve(service).await
        }
    }
}

/// Limits the time that a client may take to send a request's head.
fn limit_head(builder: &mut Builder<TokioExecutor>, timeout: Duration) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeout);
}

/// The TLS configuration, for HTTP/1 only.
async fn certificate(tls: &Tls) -> Result<RustlsConfig> {
    let loaded = RustlsConfig::from_pem_file(&tls.certificate, &tls.key)
        .await
        .map_err(|source| system::Error::ReadFile { path: tls.certificate.clone(), source })?;
    let mut config = loaded.get_inner().as_ref().clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}
