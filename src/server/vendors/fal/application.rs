//! fal's applications: `OWNER/ALIAS`, for some with a sub-path. All run the model that is loaded; they differ
//! in their request bodies.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::request::Api;
use crate::server::app::App;
use crate::server::problem::Problem;

/// One of fal's applications that this server implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Application {
    pub api: Api,
    /// The models of sync.so that the body may name; empty if it has no such field.
    pub models: &'static [&'static str],
    /// The path ends in `/stream`: progress and result are sent as events.
    pub stream: bool,
}

impl Application {
    fn named(alias: &str, subpath: &str) -> Option<Self> {
        let (subpath, stream) = match subpath.strip_suffix("stream") {
            Some(rest) if rest.is_empty() || rest.ends_with('/') => (rest.trim_end_matches('/'), true),
            _ => (subpath, false),
        };
        let (api, models): (_, &[&str]) = match (alias, subpath) {
            ("latentsync", "") => (Api::Fal, &[]),
            ("sync-lipsync", "") => {
                (Api::FalLipsync, &["lipsync-1.9.0-beta", "lipsync-1.8.0", "lipsync-1.7.1"])
            }
            ("sync-lipsync", "v2") => (Api::FalLipsync, &["lipsync-2", "lipsync-2-pro"]),
            ("sync-lipsync", "v2/pro" | "v3") => (Api::FalLipsync, &[]),
            _ => return None,
        };
        Some(Self { api, models, stream })
    }
}

/// The application's name in the URLs of its requests.
pub fn path(api: Api) -> &'static str {
    match api {
        Api::FalLipsync => "fal-ai/sync-lipsync",
        _ => "fal-ai/latentsync",
    }
}

impl FromRequestParts<App> for Application {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, app).await;
        let parameters = parameters.map_err(|_| Problem::NotFound("application"))?;
        let parameter = |wanted: &str| {
            parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value).unwrap_or_default()
        };
        Application::named(parameter("alias"), parameter("subpath")).ok_or(Problem::NotFound("application"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_applications_and_sub_paths_are_not_found() {
        let stream =
            |alias, subpath| Application::named(alias, subpath).map(|found| (found.api, found.stream));
        assert_eq!(stream("latentsync", ""), Some((Api::Fal, false)));
        assert_eq!(stream("latentsync", "stream"), Some((Api::Fal, true)));
        assert_eq!(stream("sync-lipsync", "v2"), Some((Api::FalLipsync, false)));
        assert_eq!(stream("sync-lipsync", "v2/stream"), Some((Api::FalLipsync, true)));
        for (alias, subpath) in [
            ("latentsync", "v2"),
            ("latentsync", "downstream"),
            ("latentsync", "requests"),
            ("sync-lipsync", "v4"),
        ] {
            assert_eq!(stream(alias, subpath), None, "{alias}/{subpath}");
        }
    }
}
