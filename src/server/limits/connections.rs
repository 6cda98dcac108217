//! A limit on the number of connections; further ones are closed at once.

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

/// Makes the service of each connection, up to a maximum number.
#[derive(Clone)]
pub struct ConnectionLimit {
    router: Router,
    permits: Arc<Semaphore>,
}

impl ConnectionLimit {
    pub fn new(router: Router, max: usize) -> Self {
        Self { router, permits: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there are too many connections")]
pub struct TooManyConnections;

impl Service<SocketAddr> for ConnectionLimit {
    type Response = Connection;
    type Error = TooManyConnections;
    type Future = Ready<Result<Connection, TooManyConnections>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TooManyConnections>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: SocketAddr) -> Self::Future {
        ready(match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(Connection { router: self.router.clone(), _permit: Arc::new(permit) }),
            Err(_) => {
                tracing::warn!("a connection was closed: {TooManyConnections}");
                Err(TooManyConnections)
            }
        })
    }
}

/// The service of one connection. Its permit is returned when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    router: Router,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl<B> Service<Request<B>> for Connection
where
    Router: Service<Request<B>>,
{
    type Response = <Router as Service<Request<B>>>::Response;
    type Error = <Router as Service<Request<B>>>::Error;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        <Router as Service<Request<B>>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.router.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_permit_is_returned() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut connections = ConnectionLimit::new(Router::new(), 1);
        let first = connections.call(address).await.unwrap();
        assert!(connections.call(address).await.is_err());
        drop(first);
        assert!(connections.call(address).await.is_ok());
    }
}
