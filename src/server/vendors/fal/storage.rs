//! `rest.fal.ai` and `v3.fal.media`: uploads, as the JavaScript and the Python client make them.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use data_url::DataUrl;
use serde_json::json;

use crate::request::{FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::now;
use crate::server::keys;
use crate::server::media::{self, content_type};
use crate::server::origin::base_url;
use crate::server::problem::Problem;
use crate::server::reply::{self, python_time};

/// Lifetime of an upload token.
const TOKEN_MILLISECONDS: i64 = 3_600_000;

/// The public key that webhooks are signed with.
pub async fn jwks(State(app): State<App>) -> Response {
    reply::json(StatusCode::OK, &app.signer.jwks())
}

/// Creates an upload. Its URL takes the file in one PUT request, or in parts below it, and serves it
/// afterwards.
pub async fn initiate(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let name = fields.string("file_name")?.unwrap_or("upload.bin");
    let kind = fields.string("content_type")?.unwrap_or("application/octet-stream");
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(reply::json(StatusCode::OK, &json!({"upload_url": slot.url, "file_url": slot.url})))
}

/// A token that permits uploads without the API key.
pub async fn token(State(app): State<App>, caller: Caller) -> Response {
    let expires = now() + TOKEN_MILLISECONDS;
    let body = json!({
        "token": app.signer.upload_token(&caller.owner, expires),
        "token_type": "Bearer",
        "base_url": caller.base_url,
        "expires_at": python_time(expires),
    });
    reply::json(StatusCode::OK, &body)
}

/// Uploads a file in one request.
pub async fn upload(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let uploader = uploader(&app, &parts)?;
    let slot =
        media::reserve(&app, &uploader, file_name(&parts.headers), content_type(&parts.headers)).await?;
    fill(&app, &slot, body).await?;
    Ok(reply::json(StatusCode::OK, &json!({"access_url": slot.url})))
}

/// Begins an upload in parts.
pub async fn begin(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let uploader = uploader(&app, &parts)?;
    let slot =
        media::reserve(&app, &uploader, file_name(&parts.headers), content_type(&parts.headers)).await?;
    Ok(reply::json(StatusCode::OK, &json!({"access_url": slot.url, "uploadId": slot.id})))
}

/// Stores the content of an upload; removes the upload if that fails.
async fn fill(app: &App, slot: &media::Slot, body: Body) -> Result<(), Problem> {
    let filled = media::fill(app, &slot.id, body.into_data_stream()).await;
    if filled.is_err() {
        media::discard(app, vec![slot.id.clone()]).await;
    }
    filled.map(|_| ())
}

/// The owner of the request's API key, or of its upload token.
fn uploader(app: &App, parts: &axum::http::request::Parts) -> Result<Caller, Problem> {
    let token = keys::key_in(&parts.headers).and_then(|token| app.signer.upload_owner(token, now()));
    let owner = token.or_else(|| app.config.keys.owner(&parts.headers)).ok_or(Problem::Unauthorised)?;
    Ok(Caller { owner, base_url: base_url(parts, &app.config)? })
}

fn file_name(headers: &HeaderMap) -> &str {
    headers.get("x-fal-file-name").and_then(|name| name.to_str().ok()).unwrap_or("upload.bin")
}

/// Stores a data URI as an upload, so that the database does not hold the file; `None` if `text` is no data
/// URI.
pub async fn store_data_uri(
    app: &App,
    caller: &Caller,
    field: &str,
    text: &str,
) -> Result<Option<media::Slot>, Problem> {
    if !text.starts_with("data:") {
        return Ok(None);
    }
    let refuse = |problem: &str| FieldError::new(field, problem);
    let uri = DataUrl::process(text).map_err(|_| refuse("is a data URI without data"))?;
    let kind = uri.mime_type().to_string();
    let (bytes, _) = uri.decode_to_vec().map_err(|_| refuse("is a data URI with broken base64"))?;
    let slot = media::reserve(app, caller, field, &kind).await?;
    fill(app, &slot, Body::from(bytes)).await?;
    Ok(Some(slot))
}
