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

impl FetchProblem {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::BadUrl(_) => "give an address that begins with `http://` or `https://` and a host",
            Self::Status { status: 401 | 403 } => {
                "the link may have expired or need a login: ask for a new one"
            }
            Self::Status { status: 500.. } | Self::Refused | Self::Stalled(_) | Self::ConnectTimeout(_) => {
                "whoever sends it may be busy: try again later"
            }
            Self::Status { .. } => "open the link in a browser: the file may have been moved or removed",
            Self::WebPage => "give the address of the file itself, not of the page that shows it",
            Self::Playlist => "give the address of a single file: playlists are not followed",
            Self::TooManyRedirects(_) => "give the address where the redirects end",
            Self::TooLarge { .. } => "cut the file shorter, or download it and give the path",
            Self::TooSlow(_) => "download the file with a tool that resumes, and give the path",
            Self::NoSuchHost => "check the spelling of the host, and the network",
            Self::Tls(_) => "the server's certificate is not trusted here: download the file by other means",
            Self::PrivateAddress => "give the address of a public server",
            Self::Truncated { .. } | Self::Connection(_) => "try again: the connection broke",
        }
    }
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
