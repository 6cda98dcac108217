//! What a path of fal's names: `OWNER/ALIAS`, and for some applications something below it. All of them are this
//! machine's model; they differ in what a body says.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use crate::request::Api;
use crate::server::app::App;
use crate::server::problem::Problem;

/// One of fal's applications that this server answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Application {
    pub api: Api,
    /// The models of sync.so that the body may name; none where there is no such field.
    pub models: &'static [&'static str],
    /// The path ended in `/stream`: the result is wanted as an event.
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
        let named =
            |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        Application::named(named("alias").unwrap_or_default(), named("subpath").unwrap_or_default())
            .ok_or(Problem::NotFound("application"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_run() {
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
