//! A minimum rate for request bodies, so that a slow client does not hold a connection indefinitely.

use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::extract::Request;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

/// Bytes per second that must arrive on average once the grace period is over.
const MIN_BYTES_PER_SECOND: u64 = 8 << 10;

/// A body arrives too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the body comes too slowly")]
pub struct TooSlow;

/// Limits how slowly a request's body may arrive. `grace` is added to the time that [`MIN_BYTES_PER_SECOND`]
/// allows, for a slow start. The pause between two chunks is at most twice `grace`, however fast the earlier
/// chunks came.
pub async fn watch(request: Request, grace: Duration) -> Request {
    let (parts, body) = request.into_parts();
    let until = Instant::now() + grace;
    let chunks = stream::unfold((body.into_data_stream(), 0), move |(mut chunks, bytes)| async move {
        let on_average = until + Duration::from_millis(bytes * 1000 / MIN_BYTES_PER_SECOND);
        let until = on_average.min(Instant::now() + 2 * grace);
        let chunk: Result<_, BoxError> = match timeout_at(until, chunks.next()).await {
            Ok(Some(chunk)) => chunk.map_err(BoxError::from),
            Ok(None) => return None,
            Err(_) => Err(TooSlow.into()),
        };
        let bytes = bytes + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Some((chunk, (chunks, bytes)))
    });
    Request::from_parts(parts, Body::from_stream(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends ten chunks of `bytes`, one `every` so often.
    async fn sent(bytes: usize, every: Duration) -> Result<axum::body::Bytes, axum::Error> {
        let pieces = stream::unfold(0, move |sent| async move {
            tokio::time::sleep(every).await;
            (sent < 10).then(|| (Ok::<_, std::convert::Infallible>(vec![0; bytes]), sent + 1))
        });
        let request = watch(Request::new(Body::from_stream(pieces)), Duration::from_millis(100)).await;
        axum::body::to_bytes(request.into_body(), usize::MAX).await
    }

    #[tokio::test]
    async fn a_fast_start_does_not_excuse_a_long_pause() {
        let pieces = stream::iter([Ok::<_, std::convert::Infallible>(vec![0; 1 << 20])]);
        let pieces = pieces.chain(stream::pending());
        let request = watch(Request::new(Body::from_stream(pieces)), Duration::from_millis(50)).await;
        let read = axum::body::to_bytes(request.into_body(), usize::MAX);
        let read = tokio::time::timeout(Duration::from_secs(5), read).await;
        assert!(read.expect("the body is given up").is_err());
    }

    #[tokio::test]
    async fn a_trickle_is_refused_and_a_slow_connection_is_not() {
        let trickle = sent(1, Duration::from_millis(30)).await.unwrap_err();
        let causes = std::iter::successors(std::error::Error::source(&trickle), |cause| cause.source());
        assert!(causes.into_iter().any(|cause| cause.is::<TooSlow>()), "{trickle:?}");
        assert_eq!(sent(1 << 10, Duration::from_millis(30)).await.unwrap().len(), 10 << 10);
    }
}
