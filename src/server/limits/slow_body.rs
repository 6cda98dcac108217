//! How slowly a client may send: a body that trickles in does not hold a connection for ever.

use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::Request;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

/// Bytes that must come every second, on average, once the patience is used up.
const PACE: u64 = 8 << 10;

/// A body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the body comes too slowly")]
pub struct TooSlow;

/// Watches over a request's body. `patience` is for all that may hold up a decent client, at its beginning and, twice
/// as long, between any two pieces: what came fast is no credit for silence.
pub async fn watch(request: Request, patience: Duration) -> Request {
    let (parts, body) = request.into_parts();
    let until = Instant::now() + patience;
    let pieces = stream::unfold((body.into_data_stream(), 0), move |(mut pieces, bytes)| async move {
        let on_average = until + Duration::from_millis(bytes * 1000 / PACE);
        let until = on_average.min(Instant::now() + 2 * patience);
        let piece: Result<_, BoxError> = match timeout_at(until, pieces.next()).await {
            Ok(Some(piece)) => piece.map_err(BoxError::from),
            Ok(None) => return None,
            Err(_) => Err(TooSlow.into()),
        };
        let bytes = bytes + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Some((piece, (pieces, bytes)))
    });
    Request::from_parts(parts, Body::from_stream(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece of `bytes` every `every`.
    async fn sent(bytes: usize, every: Duration) -> Result<axum::body::Bytes, axum::Error> {
        let pieces = stream::unfold(0, move |sent| async move {
            tokio::time::sleep(every).await;
            (sent < 10).then(|| (Ok::<_, std::convert::Infallible>(vec![0; bytes]), sent + 1))
        });
        let request = watch(Request::new(Body::from_stream(pieces)), Duration::from_millis(100)).await;
        axum::body::to_bytes(request.into_body(), usize::MAX).await
    }

    #[tokio::test]
    async fn what_came_fast_is_no_credit() {
        let pieces = stream::iter([Ok::<_, std::convert::Infallible>(vec![0; 1 << 20])]);
        let pieces = pieces.chain(stream::pending());
        let request = watch(Request::new(Body::from_stream(pieces)), Duration::from_millis(50)).await;
        let read = axum::body::to_bytes(request.into_body(), usize::MAX);
        let read = tokio::time::timeout(Duration::from_secs(5), read).await;
        assert!(read.expect("it is not waited for").is_err());
    }

    #[tokio::test]
    async fn a_trickle_ends_and_a_slow_line_does_not() {
        let trickle = sent(1, Duration::from_millis(30)).await.unwrap_err();
        let causes = std::iter::successors(std::error::Error::source(&trickle), |cause| cause.source());
        assert!(causes.into_iter().any(|cause| cause.is::<TooSlow>()), "{trickle:?}");
        assert_eq!(sent(1 << 10, Duration::from_millis(30)).await.unwrap().len(), 10 << 10);
    }
}
