//! `rest.fal.ai` and `v3.fal.media`: uploads, as the JavaScript and the Python client make them.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::request::FieldError;
use crate::server::app::{App, Caller, base_url};
use crate::server::jobs::now;
use crate::server::keys;
use crate::server::media::{self, content_type};
use crate::server::problem::Problem;
use crate::server::reply::{self, python_time};

/// How long a permission to upload lasts.
const TOKEN_MILLISECONDS: i64 = 3_600_000;

pub fn router() -> Router<App> {
    Router::new()
        .route("/storage/upload/initiate", post(initiate))
        .route("/storage/upload/initiate-multipart", post(initiate))
        .route("/storage/auth/token", post(token))
        .route("/files/upload", post(upload).layer(DefaultBodyLimit::disable()))
        .route("/files/upload/multipart", post(begin))
}

/// A URL to put the file to, in one piece or in parts below it; the same URL gets it back.
async fn initiate(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let text = |name: &str, default: &str| body[name].as_str().unwrap_or(default).to_string();
    let (name, kind) = (text("file_name", "upload.bin"), text("content_type", "application/octet-stream"));
    let slot = media::reserve(&app, &caller, &name, &kind).await?;
    Ok(reply::json(StatusCode::OK, &json!({"upload_url": slot.url, "file_url": slot.url})))
}

/// A permission to upload without the key.
async fn token(State(app): State<App>, caller: Caller) -> Response {
    let expires = now() + TOKEN_MILLISECONDS;
    let body = json!({
        "token": app.signer.upload_token(&caller.owner, expires),
        "token_type": "Bearer",
        "base_url": caller.base_url,
        "expires_at": python_time(expires),
    });
    reply::json(StatusCode::OK, &body)
}

/// The file itself, in one piece.
async fn upload(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let uploader = uploader(&app, &parts)?;
    let slot =
        media::reserve(&app, &uploader, file_name(&parts.headers), content_type(&parts.headers)).await?;
    media::fill(&app, &slot.id, body.into_data_stream()).await?;
    Ok(reply::json(StatusCode::OK, &json!({"access_url": slot.url})))
}

/// The beginning of an upload in parts.
async fn begin(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let uploader = uploader(&app, &parts)?;
    let slot =
        media::reserve(&app, &uploader, file_name(&parts.headers), content_type(&parts.headers)).await?;
    Ok(reply::json(StatusCode::OK, &json!({"access_url": slot.url, "uploadId": slot.id})))
}

/// Whoever has a key, or a token made with one.
fn uploader(app: &App, parts: &axum::http::request::Parts) -> Result<Caller, Problem> {
    let token = keys::key_in(&parts.headers).and_then(|token| app.signer.upload_owner(token, now()));
    let owner = token.or_else(|| app.config.keys.owner(&parts.headers)).ok_or(Problem::Unauthorised)?;
    Ok(Caller { owner, base_url: base_url(parts, app)? })
}

fn file_name(headers: &HeaderMap) -> &str {
    headers.get("x-fal-file-name").and_then(|name| name.to_str().ok()).unwrap_or("upload.bin")
}

/// Puts an upload's URL in place of a data URI, so that the database need not carry it.
pub async fn store_data_uri(
    app: &App,
    caller: &Caller,
    field: &str,
    value: &mut Value,
) -> Result<(), Problem> {
    let Some(data) = value.as_str().and_then(|text| text.strip_prefix("data:")) else { return Ok(()) };
    let problem = |problem: &str| FieldError { field: field.to_string(), problem: problem.to_string() };
    let (kind, data) = data.split_once(',').ok_or_else(|| problem("is a data URI without data"))?;
    let kind = kind.strip_suffix(";base64").ok_or_else(|| problem("is a data URI that is not base64"))?;
    let bytes = STANDARD.decode(data).map_err(|_| problem("is a data URI with broken base64"))?;
    let slot = media::reserve(app, caller, field, kind).await?;
    media::fill(app, &slot.id, Body::from(bytes).into_data_stream()).await?;
    *value = slot.url.into();
    Ok(())
}
