//! `/fal/proxy`: fal's JavaScript client sends its calls there, with the real URL in a header.

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;
use url::Url;

use crate::request::FieldError;
use crate::server::app::App;
use crate::server::problem::Problem;

const TARGET: &str = "x-fal-target-url";

/// Answers a call as its target would: the host of the target becomes the prefix of the path.
pub async fn forward(app: App, hosts: Router<App>, mut request: Request) -> Result<Response, Problem> {
    let refuse = |problem: &str| FieldError::new(&format!("header.{TARGET}"), problem);
    let target = request.headers().get(TARGET).and_then(|target| target.to_str().ok());
    let target = target.ok_or_else(|| refuse("is missing"))?;
    let target = Url::parse(target).map_err(|_| refuse("is not a URL"))?;
    let prefix = match target.host_str() {
        // The second names are the fallbacks of the clients.
        Some("queue.fal.run" | "queue.falrun.com") => "/fal/queue",
        Some("fal.run" | "falrun.com") => "/fal/run",
        Some("rest.fal.ai" | "rest.alpha.fal.ai" | "v3.fal.media") => "/fal/rest",
        _ => return Err(refuse("is not one of fal's hosts").into()),
    };
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri: Uri = format!("{prefix}{}{query}", target.path()).parse().map_err(|_| refuse("is not a URL"))?;
    *request.uri_mut() = uri;
    Ok(hosts.with_state(app).oneshot(request).await.into_response())
}
