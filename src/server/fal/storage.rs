//! `rest.fal.ai` and `v3.fal.media`: uploads, as the JavaScript and the Python client make them.

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use data_url::DataUrl;
use serde_json::{Value, json};

use crate::request::{FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::jobs::now;
use crate::server::keys;
use crate::server::media::{self, content_type};
use crate::server::origin::base_url;
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
    let fields = Fields::new(&body)?;
    let name = fields.string("file_name")?.unwrap_or("upload.bin");
    let kind = fields.string("content_type")?.unwrap_or("application/octet-stream");
    let slot = media::reserve(&app, &caller, name, kind).await?;
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
    fill(&app, &slot, body).await?;
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

/// Fills an upload, or forgets it.
async fn fill(app: &App, slot: &media::Slot, body: Body) -> Result<(), Problem> {
    let filled = media::fill(app, &slot.id, body.into_data_stream()).await;
    if filled.is_err() {
        media::discard(app, vec![slot.id.clone()]).await;
    }
    filled.map(|_| ())
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

/// Puts an upload's URL in place of a data URI, so that the database need not carry it. Returns the upload.
pub async fn store_data_uri(
    app: &App,
    caller: &Caller,
    field: &str,
    value: &mut Value,
) -> Result<Option<String>, Problem> {
    let Some(uri) = value.as_str().filter(|text| text.starts_with("data:")) else { return Ok(None) };
    let problem = |problem: &str| FieldError { field: field.to_string(), problem: problem.to_string() };
    let uri = DataUrl::process(uri).map_err(|_| problem("is a data URI without data"))?;
    let kind = uri.mime_type().to_string();
    let (bytes, _) = uri.decode_to_vec().map_err(|_| problem("is a data URI with broken base64"))?;
    let slot = media::reserve(app, caller, field, &kind).await?;
    fill(app, &slot, Body::from(bytes)).await?;
    *value = slot.url.into();
    Ok(Some(slot.id))
}
