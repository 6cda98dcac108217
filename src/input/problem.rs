//! Why an input that is not a regular file could not be had.

use std::time::Duration;

/// What happened on the way. None of these says more of a URL than its host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchProblem {
    #[error("not a URL that can be fetched: {0}")]
    BadUrl(String),
    #[error("the server answered {status}{}", reason(*status))]
    Status { status: u16 },
    #[error("the server answered with a web page (text/html)")]
    WebPage,
    #[error("the server answered with a playlist")]
    Playlist,
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    #[error("it has {} bytes, and {limit} are allowed", announced.map_or_else(|| "more".to_string(), |n| n.to_string()))]
    TooLarge { announced: Option<u64>, limit: u64 },
    #[error("nothing came for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    #[error("not complete after {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("the host's name cannot be resolved")]
    NoSuchHost,
    #[error("no secure connection: {0}")]
    Tls(String),
    #[error("the connection was refused")]
    Refused,
    #[error("the connection was not made within {} s", .0.as_secs_f64())]
    ConnectTimeout(Duration),
    #[error("its address is not public")]
    PrivateAddress,
    #[error("it ended after {got} of {expected} bytes")]
    Truncated { got: u64, expected: u64 },
    #[error("the connection failed: {0}")]
    Connection(String),
}

/// The name of a status, as far as users meet it.
fn reason(status: u16) -> &'static str {
    match status {
        401 => " (a login is needed)",
        403 => " (forbidden)",
        404 => " (not found)",
        410 => " (gone)",
        429 => " (too many requests)",
        500..=599 => " (its own failure)",
        _ => "",
    }
}
