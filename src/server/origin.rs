//! CORS, protection from foreign web pages, and the server's base URL.
//!
//! A server without API keys is meant for this machine. It refuses requests that a browser sends for a
//! foreign web page, both cross-origin requests and those to a host name that was rebound to this machine
//! (DNS rebinding). A server with keys accepts every origin: a request without a key is refused anyway.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use url::Url;

use super::config::ServerConfig;
use super::problem::Problem;

/// How long a browser may cache a preflight response.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);
/// Response headers that pages of other origins may read, beside those of the vendors.
const EXPOSED: [HeaderName; 3] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("retry-after"),
    HeaderName::from_static("etag"),
];

/// The CORS layer: which pages may read the responses. `exposed` are the vendors' response headers.
pub fn cors(config: &ServerConfig, exposed: impl IntoIterator<Item = HeaderName>) -> CorsLayer {
    let config = config.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| {
            config.keys.are_required() || is_allowed(origin, parts, &config)
        }))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed.into_iter().chain(EXPOSED).collect::<Vec<_>>())
        .max_age(PREFLIGHT_MAX_AGE)
}

/// The base URL by which the client addressed this server, without a trailing slash.
///
/// # Errors
/// [`Problem::Foreign`] for a request of a foreign web page to a server without keys.
pub fn base_url(parts: &Parts, config: &ServerConfig) -> Result<String, Problem> {
    let host = host(parts);
    if !config.keys.are_required() {
        if let Some(host) = host.as_ref().map(Authority::host)
            && !(is_local_name(host) || is_address(host) || is_public(host, config))
        {
            return Err(Problem::Foreign(host.to_string()));
        }
        if let Some(origin) = parts.headers.get(ORIGIN)
            && !is_allowed(origin, parts, config)
        {
            return Err(Problem::Foreign(origin.to_str().unwrap_or_default().to_string()));
        }
    }
    if let Some(public) = &config.public_url {
        return Ok(public.trim_end_matches('/').to_string());
    }
    let host = host.ok_or_else(|| Problem::Body("the request names no host".to_string()))?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}

/// The host that a request is addressed to; `None` if the header is not a plain host and port.
pub fn host(parts: &Parts) -> Option<Authority> {
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(Authority::as_str),
    };
    host.and_then(|host| host.parse::<Authority>().ok()).filter(|host| !host.as_str().contains('@'))
}

/// Whether a page's origin is this server or this machine.
fn is_allowed(origin: &HeaderValue, parts: &Parts, config: &ServerConfig) -> bool {
    let from = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok());
    let Some(from) = from.as_ref().and_then(Url::host_str) else { return false };
    let same = host(parts).is_some_and(|host| host.host() == from);
    same || is_local_name(from) || is_public(from, config)
}

/// Whether `host` is that of the configured public URL.
fn is_public(host: &str, config: &ServerConfig) -> bool {
    let public = config.public_url.as_deref().and_then(|url| Url::parse(url).ok());
    public.is_some_and(|public| public.host_str() == Some(host))
}

fn is_local_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || matches!(host.as_str(), "127.0.0.1" | "[::1]")
}

/// An IP address, unlike a name, cannot be rebound.
fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}
