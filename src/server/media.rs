//! `/media/ID/NAME`: results and uploads, to be fetched (in ranges, so that a browser can seek) and, for
//! uploads, to be written once. The identifier is the permission, as it is in the vendors' URLs: their
//! clients send no key with these requests.

use std::fmt::Display;
use std::path::{Path as FilePath, PathBuf};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures_util::{Stream, StreamExt};
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tower::ServiceExt;
use tower_http::services::ServeFile;
use uuid::Uuid;

use super::app::{App, Caller};
use super::jobs::Upload;
use super::jobs::files::{COVER, OUTPUT, sync_directory};
use super::problem::{Problem, answer_with};
use super::reply;

/// More parts than any client makes of the largest file.
const MAX_PARTS: u32 = 10_000;

pub fn router() -> Router<App> {
    let part = put(write_part);
    Router::new()
        .route("/media/{id}/{name}", get(read).put(write))
        .route("/media/{id}/{name}/{part}", part.clone())
        .route("/media/{id}/{name}/complete", post(complete))
        // fal's Python client has its own way to say the same.
        .route("/media/{id}/{name}/multipart/{again}/{part}", put(write_python_part))
        .route("/media/{id}/{name}/multipart/{again}/complete", post(complete_python))
        .layer(DefaultBodyLimit::disable())
        .layer(map_response(answer_with(words)))
}

fn words(problem: &Problem) -> Response {
    reply::json(problem.status(), &json!({"detail": problem.message()}))
}

/// A new upload, and the URL it is written to and read from.
pub struct Slot {
    pub id: String,
    pub url: String,
}

/// Makes room for a file that will be uploaded.
pub async fn reserve(app: &App, caller: &Caller, name: &str, content_type: &str) -> Result<Slot, Problem> {
    let id = Uuid::new_v4().to_string();
    let name = safe_name(name);
    let url = format!("{}/media/{id}/{name}", caller.base_url);
    let (owner, content_type, slot) = (caller.owner.clone(), content_type.to_string(), id.clone());
    app.blocking(move |app| Ok(app.jobs.store.insert_upload(&slot, &name, &content_type, &owner)?)).await?;
    Ok(Slot { id, url })
}

/// Stores a body, or a form's field, as the content of an upload that was reserved. Returns its bytes.
pub async fn fill<S, E>(app: &App, id: &str, pieces: S) -> Result<u64, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    let path = part_path(app, id, "part");
    let stored = copy(app, pieces, &path).await;
    let bytes = stored.clone().unwrap_or(0);
    finish(app, id, path, stored).await?;
    Ok(bytes)
}

async fn read(
    State(app): State<App>,
    reply::Path((id, name)): reply::Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (path, content_type) = app
        .blocking(move |app| {
            if let Some(upload) = app.jobs.store.upload(&id)? {
                let complete = upload.bytes.is_some().then(|| app.jobs.files.upload(&id));
                return Ok((complete.ok_or(Problem::NotFound("file"))?, upload.content_type));
            }
            let known = app.jobs.store.get(&id)?.filter(|job| job.output.is_some());
            match (known, name.as_str()) {
                (Some(_), OUTPUT) => Ok((app.jobs.files.result(&id), "video/mp4".to_string())),
                (Some(_), COVER) => Ok((app.jobs.files.cover(&id), "image/jpeg".to_string())),
                _ => Err(Problem::NotFound("file")),
            }
        })
        .await?;
    let mut response = ServeFile::new(path).oneshot(request).await.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, shown_as(&content_type));
    // An upload must not become a page of this server.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    Ok(response)
}

async fn write(
    State(app): State<App>,
    reply::Path((id, _)): reply::Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    incomplete(&app, &id).await?;
    fill(&app, &id, request.into_body().into_data_stream()).await?;
    Ok(StatusCode::OK)
}

async fn write_part(
    State(app): State<App>,
    reply::Path((id, _, part)): reply::Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    incomplete(&app, &id).await?;
    let number: u32 = part.parse().map_err(|_| Problem::NotFound("part"))?;
    if !(1..=MAX_PARTS).contains(&number) {
        return Err(Problem::NotFound("part"));
    }
    copy(&app, request.into_body().into_data_stream(), &part_path(&app, &id, &number.to_string())).await?;
    let etag = format!("\"{id}-{number}\"");
    let mut response = reply::json(StatusCode::OK, &json!({"partNumber": number, "etag": etag}));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, value);
    }
    Ok(response)
}

async fn write_python_part(
    app: State<App>,
    reply::Path((id, name, _, part)): reply::Path<(String, String, String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    write_part(app, reply::Path((id, name, part)), request).await
}

/// Joins the parts. Each is added to the first and removed, so that the file is never there twice.
async fn complete(
    State(app): State<App>,
    reply::Path((id, _)): reply::Path<(String, String)>,
    reply::Body(body): reply::Body,
) -> Result<StatusCode, Problem> {
    incomplete(&app, &id).await?;
    let parts = body["parts"].as_array().ok_or(Problem::Conflict("the upload has no parts"))?;
    let numbers = parts.iter().map(|part| part["partNumber"].as_u64().unwrap_or(0));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    if numbers.is_empty() || numbers.iter().zip(1..).any(|(&number, expected)| number != expected) {
        return Err(Problem::Conflict("the parts are not numbered from 1 without a gap"));
    }
    let path = part_path(&app, &id, "part");
    let joined = join(&app, &id, numbers.len() as u64, &path).await;
    finish(&app, &id, path, joined).await?;
    Ok(StatusCode::OK)
}

async fn complete_python(
    app: State<App>,
    reply::Path((id, name, _)): reply::Path<(String, String, String)>,
    body: reply::Body,
) -> Result<StatusCode, Problem> {
    complete(app, reply::Path((id, name)), body).await
}

async fn join(app: &App, id: &str, parts: u64, path: &FilePath) -> Result<u64, Problem> {
    let mut bytes = 0;
    let mut whole = File::create(path).await.map_err(broken)?;
    for number in 1..=parts {
        let part = part_path(app, id, &number.to_string());
        let mut file = File::open(&part).await.map_err(|_| Problem::Conflict("a part was never uploaded"))?;
        bytes += tokio::io::copy(&mut file, &mut whole).await.map_err(broken)?;
        if bytes > app.config.max_upload {
            return Err(Problem::TooLarge);
        }
    }
    whole.sync_all().await.map_err(broken)?;
    Ok(bytes)
}

/// Makes what was written to `path` the upload, or removes it.
async fn finish(app: &App, id: &str, path: PathBuf, written: Result<u64, Problem>) -> Result<(), Problem> {
    let id = id.to_string();
    app.blocking(move |app| {
        let stored = written.and_then(|bytes| {
            let upload = app.jobs.files.upload(&id);
            std::fs::rename(&path, &upload).map_err(broken)?;
            upload.parent().map_or(Ok(()), sync_directory).map_err(broken)?;
            app.jobs.store.complete_upload(&id, bytes)?;
            Ok(())
        });
        match stored {
            Ok(()) => app.jobs.files.remove_parts(&id),
            Err(_) => app.jobs.files.remove_upload(&id),
        }
        stored
    })
    .await
}

/// Streams a body to the disk, as far as the limit goes.
async fn copy<S, E>(app: &App, mut pieces: S, path: &FilePath) -> Result<u64, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    let room = app.config.keep.quota.saturating_sub(app.blocking(|app| Ok(app.jobs.files.bytes())).await?);
    let limit = app.config.max_upload.min(room);
    let mut file = File::create(path).await.map_err(broken)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Problem::Body(format!("the upload broke off: {error}")))?;
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(Problem::TooLarge);
        }
        file.write_all(&piece).await.map_err(broken)?;
    }
    file.sync_all().await.map_err(broken)?;
    Ok(bytes)
}

async fn incomplete(app: &App, id: &str) -> Result<Upload, Problem> {
    let id = id.to_string();
    let upload = app.blocking(move |app| Ok(app.jobs.store.upload(&id)?)).await?;
    let upload = upload.ok_or(Problem::NotFound("upload"))?;
    match upload.bytes {
        None => Ok(upload),
        Some(_) => Err(Problem::Conflict("the file has been uploaded already")),
    }
}

/// Where a piece of an upload waits. The identifier comes from the database.
fn part_path(app: &App, id: &str, piece: &str) -> PathBuf {
    app.jobs.files.upload(&format!("{id}.{piece}"))
}

fn broken(error: std::io::Error) -> Problem {
    tracing::error!("an upload cannot be stored: {error}");
    Problem::Server("the file cannot be stored".to_string())
}

/// A file name that needs no care in a URL or a header.
fn safe_name(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let name: String = base.chars().map(keep).take(100).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "file".to_string() } else { name.to_string() }
}

/// The content type under which an upload is shown: only what a browser plays or displays and does not run.
fn shown_as(content_type: &str) -> HeaderValue {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let plain = ["video/", "audio/", "image/"].iter().any(|family| kind.starts_with(family));
    let shown = if plain && !kind.contains("svg") { kind.as_str() } else { "application/octet-stream" };
    HeaderValue::from_str(shown).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// The content type that a request says its body has.
pub fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_a_url() {
        assert_eq!(safe_name("../../etc/pass wd.mp4"), "pass_wd.mp4");
        assert_eq!(safe_name("C:\\a\\v.mov"), "v.mov");
        assert_eq!(safe_name("…"), "_");
        assert_eq!(safe_name(".."), "file");
    }

    #[test]
    fn nothing_that_runs_is_shown() {
        assert_eq!(shown_as("video/mp4; codecs=avc1"), "video/mp4");
        for dangerous in ["text/html", "image/svg+xml", "application/javascript", ""] {
            assert_eq!(shown_as(dangerous), "application/octet-stream");
        }
    }
}
