//! From which web pages the server takes requests, and under which address it knows itself.
//!
//! A server that asks for no key is for this machine. It does not listen to web pages that a browser here shows:
//! neither to those whose name was made to point here, nor to those that simply send. A server with keys listens to
//! all pages: without a key they get nothing.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use url::Url;

use super::app::App;
use super::problem::Problem;

/// How long a browser remembers what it was told of this.
const REMEMBERED: Duration = Duration::from_secs(600);
/// What the vendors' JavaScript reads of an answer, beside its body.
const SHOWN: [HeaderName; 7] = [
    HeaderName::from_static("x-fal-request-id"),
    HeaderName::from_static("x-fal-error-type"),
    HeaderName::from_static("x-fal-retryable"),
    HeaderName::from_static("x-fal-request-timeout-type"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("retry-after"),
    HeaderName::from_static("etag"),
];

/// Tells browsers which pages may read the answers.
pub fn cors(app: &App) -> CorsLayer {
    let app = app.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| {
            app.config.keys.are_required() || is_allowed(origin, parts, &app)
        }))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(SHOWN)
        .max_age(REMEMBERED)
}

/// The address under which the client knows this server, without a slash at the end, for requests that it may make.
pub fn base_url(parts: &Parts, app: &App) -> Result<String, Problem> {
    let host = host(parts);
    if !app.config.keys.are_required() {
        if let Some(host) = host.as_ref().map(Authority::host)
            && !(is_local_name(host) || is_address(host) || is_public(host, app))
        {
            return Err(Problem::Foreign(host.to_string()));
        }
        if let Some(origin) = parts.headers.get(ORIGIN)
            && !is_allowed(origin, parts, app)
        {
            return Err(Problem::Foreign(origin.to_str().unwrap_or_default().to_string()));
        }
    }
    if let Some(public) = &app.config.public_url {
        return Ok(public.trim_end_matches('/').to_string());
    }
    let host = host.ok_or_else(|| Problem::Body("the request names no host".to_string()))?;
    let scheme = if app.config.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{host}"))
}

/// The host that a request is addressed to. Only what is a host may come back in a URL.
pub fn host(parts: &Parts) -> Option<Authority> {
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => parts.uri.authority().map(Authority::as_str),
    };
    host.and_then(|host| host.parse::<Authority>().ok()).filter(|host| !host.as_str().contains('@'))
}

/// Whether a page is this server's own, or of this machine.
fn is_allowed(origin: &HeaderValue, parts: &Parts, app: &App) -> bool {
    let from = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok());
    let Some(from) = from.as_ref().and_then(Url::host_str) else { return false };
    let same = host(parts).is_some_and(|host| host.host() == from);
    same || is_local_name(from) || is_public(from, app)
}

fn is_public(host: &str, app: &App) -> bool {
    let public = app.config.public_url.as_deref().and_then(|url| Url::parse(url).ok());
    public.is_some_and(|public| public.host_str() == Some(host))
}

fn is_local_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || matches!(host.as_str(), "127.0.0.1" | "[::1]")
}

/// An address cannot be made to point elsewhere, as a name can.
fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}
