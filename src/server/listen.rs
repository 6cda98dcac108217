//! The port: connections, TLS, limits, and the orderly end.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;

use super::jobs::engine::Engine;
use super::{Server, ServerConfig, Tls};
use crate::server::limits::connections::Connections;
use crate::server::limits::write_timeout::Watched;
use crate::server::{Error, Result};
use crate::system;
use crate::system::cancel::CancelToken;

/// How long requests that are being answered may go on after the server was told to end.
const GRACE: Duration = Duration::from_secs(5);
/// How often the wish to end is looked for.
const LOOK: Duration = Duration::from_millis(100);

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
    let tls = match &config.tls {
        Some(tls) => Some(certificate(tls).await?),
        None => None,
    };
    let (most, patience) = (config.max_connections, config.head_patience);
    let server = Server::start(config, engine)?;
    let handle = Handle::new();
    let service = Connections::new(server.router(), most);
    let ending = async {
        let jobs = server.jobs();
        while !stop.is_cancelled() && !jobs.is_closed() {
            tokio::time::sleep(LOOK).await;
        }
        jobs.close();
        handle.graceful_shutdown(Some(GRACE));
    };
    let serving = async {
        // HTTP/1 only: it is what every client speaks, and a connection that says nothing is known from its start.
        let served = async {
            match tls {
                Some(tls) => {
                    let port = axum_server::from_tcp_rustls(listener, tls)?.map(Watched);
                    let mut port = port.handle(handle.clone()).http1_only();
                    limit(port.http_builder(), patience);
                    port.serve(service).await
                }
                None => {
                    let port = axum_server::from_tcp(listener)?.map(Watched);
                    let mut port = port.handle(handle.clone()).http1_only();
                    limit(port.http_builder(), patience);
                    port.serve(service).await
                }
            }
        };
        let served = served.await;
        // Without a port there is no server.
        server.jobs().close();
        served
    };
    let (served, ()) = tokio::join!(serving, ending);
    let stopped = tokio::task::spawn_blocking(|| server.stop()).await;
    served.map_err(refuse)?;
    stopped.unwrap_or_else(|error| Err(Error::Internal(format!("the worker ended unexpectedly: {error}"))))
}

/// A client that sends its head drop by drop does not hold a connection for ever.
fn limit(builder: &mut Builder<TokioExecutor>, patience: Duration) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
}

async fn certificate(tls: &Tls) -> Result<RustlsConfig> {
    let loaded = RustlsConfig::from_pem_file(&tls.certificate, &tls.key)
        .await
        .map_err(|source| system::Error::ReadFile { path: tls.certificate.clone(), source })?;
    let mut config = loaded.get_inner().as_ref().clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}
