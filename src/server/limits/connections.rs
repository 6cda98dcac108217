//! As many connections as the server has room for; what comes beyond is closed at once.

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

/// Makes the service of each connection.
#[derive(Clone)]
pub struct Connections {
    router: Router,
    room: Arc<Semaphore>,
}

impl Connections {
    pub fn new(router: Router, most: usize) -> Self {
        Self { router, room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there are too many connections")]
pub struct Full;

impl Service<SocketAddr> for Connections {
    type Response = Connection;
    type Error = Full;
    type Future = Ready<Result<Connection, Full>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Full>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: SocketAddr) -> Self::Future {
        ready(match self.room.clone().try_acquire_owned() {
            Ok(place) => Ok(Connection { router: self.router.clone(), _place: Arc::new(place) }),
            Err(_) => {
                tracing::warn!("a connection was closed: {Full}");
                Err(Full)
            }
        })
    }
}

/// One connection; its place is free again when the last clone is gone.
#[derive(Clone)]
pub struct Connection {
    router: Router,
    _place: Arc<OwnedSemaphorePermit>,
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
    async fn a_place_is_given_back() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut connections = Connections::new(Router::new(), 1);
        let first = connections.call(address).await.unwrap();
        assert!(connections.call(address).await.is_err());
        drop(first);
        assert!(connections.call(address).await.is_ok());
    }
}
