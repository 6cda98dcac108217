//! `/media/ID/NAME`: results and uploads. They are served with range support; an upload is written once.
//! Knowledge of the random identifier is the permission, as in the vendors' URLs: their clients send no key
//! with these requests.

mod routes;

use std::error::Error;
use std::path::PathBuf;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde_json::json;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tower::ServiceExt;
use tower_http::services::ServeFile;
use uuid::Uuid;

use super::app::{App, Caller};
use super::jobs::Upload;
use super::jobs::files::{COVER, sync_directory};
use super::problem::{Problem, body_error};
use super::reply;
pub use routes::{routes, schemas};

/// Parts of one upload.
const MAX_PARTS: u32 = 10_000;

/// A new upload, and the URL that it is written to and read from.
pub struct Slot {
    pub id: String,
    pub url: String,
}

/// Creates an upload without content.
pub async fn reserve(app: &App, caller: &Caller, name: &str, content_type: &str) -> Result<Slot, Problem> {
    let id = Uuid::new_v4().to_string();
    let name = safe_name(name);
    let url = format!("{}/media/{id}/{name}", caller.base_url);
    let (owner, content_type, slot) = (caller.owner.clone(), content_type.to_string(), id.clone());
    app.blocking(move |app| Ok(app.jobs.store.insert_upload(&slot, &name, &content_type, &owner)?)).await?;
    Ok(Slot { id, url })
}

/// Stores `chunks` as the content of an upload from [`reserve`]. Returns their bytes.
pub async fn fill<S, E>(app: &App, id: &str, chunks: S) -> Result<u64, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Error + 'static,
{
    let arrived = copy(app, id, chunks).await?;
    let bytes = arrived.bytes;
    publish(app, id, arrived).await?;
    Ok(bytes)
}

/// Deletes uploads of a request that was refused.
pub async fn discard(app: &App, ids: Vec<String>) {
    let deleted = app.blocking(move |app| {
        for id in ids {
            if app.jobs.store.remove_upload(&id)? {
                app.jobs.files.remove_upload(&id);
            }
        }
        Ok(())
    });
    if let Err(problem) = deleted.await {
        tracing::error!("an upload cannot be deleted: {}", problem.message());
    }
}

async fn read(
    State(app): State<App>,
    reply::Path((id, name)): reply::Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Problem> {
    let (path, content_type, bytes) = app
        .blocking(move |app| {
            if let Some(upload) = app.jobs.store.upload(&id)? {
                let bytes = upload.bytes.ok_or(Problem::NotFound("file"))?;
                return Ok((app.jobs.files.upload(&id), upload.content_type, bytes));
            }
            let job = app.jobs.store.get(&id)?.ok_or(Problem::NotFound("file"))?;
            match &job.output {
                Some(output) if name == job.output_name => {
                    Ok((app.jobs.files.result(&id), "video/mp4".to_string(), output.bytes))
                }
                Some(_) if name == COVER => {
                    Ok((app.jobs.files.cover(&id), "image/jpeg".to_string(), u64::MAX))
                }
                _ => Err(Problem::NotFound("file")),
            }
        })
        .await?;
    if !is_simple_range(request.headers(), bytes) {
        request.headers_mut().remove(RANGE);
    }
    let mut response = ServeFile::new(path).oneshot(request).await.into_response();
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Problem::NotFound("file"));
    }
    let is_success = response.status().is_success();
    let headers = response.headers_mut();
    if is_success {
        headers.insert(CONTENT_TYPE, served_type(&content_type));
    }
    // An uploaded HTML file must not run as a page of this server.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    Ok(response)
}

async fn write(
    State(app): State<App>,
    reply::Path((id, _)): reply::Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let mut chunks = request.into_body().into_data_stream();
    let Some(stored) = find(&app, &id).await?.bytes else {
        fill(&app, &id, chunks).await?;
        return Ok(StatusCode::OK);
    };
    // A client that did not receive the response sends the file again. Only its length is compared.
    let mut bytes = 0;
    while let Some(chunk) = chunks.next().await {
        bytes += chunk.map_err(|error| body_error(&error))?.len() as u64;
        if bytes > stored {
            break;
        }
    }
    if bytes != stored {
        return Err(Problem::Conflict("another file has been uploaded already"));
    }
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
    let arrived = copy(&app, &id, request.into_body().into_data_stream()).await?;
    fs::rename(&arrived.path, part_path(&app, &id, &number.to_string())).await.map_err(storage_error)?;
    arrived.keep();
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

/// Joins the parts. They are kept until the upload is complete, so that a client can retry.
async fn complete(
    State(app): State<App>,
    reply::Path((id, _)): reply::Path<(String, String)>,
    reply::Body(body): reply::Body,
) -> Result<StatusCode, Problem> {
    if find(&app, &id).await?.bytes.is_some() {
        return Ok(StatusCode::OK);
    }
    let parts = body["parts"].as_array().ok_or(Problem::Conflict("the upload has no parts"))?;
    let numbers = parts.iter().map(|part| part["partNumber"].as_u64().unwrap_or(0));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    if numbers.is_empty() || numbers.iter().zip(1..).any(|(&number, expected)| number != expected) {
        return Err(Problem::Conflict("the parts are not numbered from 1 without a gap"));
    }
    let joined = join(&app, &id, numbers.len()).await?;
    publish(&app, &id, joined).await?;
    Ok(StatusCode::OK)
}

async fn complete_python(
    app: State<App>,
    reply::Path((id, name, _)): reply::Path<(String, String, String)>,
    body: reply::Body,
) -> Result<StatusCode, Problem> {
    complete(app, reply::Path((id, name)), body).await
}

async fn join(app: &App, id: &str, parts: usize) -> Result<PartialUpload, Problem> {
    let paths: Vec<PathBuf> = (1..=parts).map(|number| part_path(app, id, &number.to_string())).collect();
    for path in &paths {
        fs::metadata(path).await.map_err(|_| Problem::Conflict("a part was never uploaded"))?;
    }
    let mut joined = PartialUpload::new(app, id);
    let mut to = File::create(&joined.path).await.map_err(storage_error)?;
    for path in &paths {
        let mut file = File::open(path).await.map_err(storage_error)?;
        joined.admit(file.metadata().await.map_err(storage_error)?.len())?;
        tokio::io::copy(&mut file, &mut to).await.map_err(storage_error)?;
    }
    to.sync_all().await.map_err(storage_error)?;
    Ok(joined)
}

/// Makes `arrived` the content of the upload, unless another attempt completed it before.
async fn publish(app: &App, id: &str, arrived: PartialUpload) -> Result<(), Problem> {
    let id = id.to_string();
    app.blocking(move |app| {
        let files = &app.jobs.files;
        let first = app.jobs.store.complete_upload(&id, arrived.bytes, || {
            let place = files.upload(&id);
            std::fs::rename(&arrived.path, &place)?;
            place.parent().map_or(Ok(()), sync_directory)
        })?;
        if !first {
            // A client that did not receive the response sends the file again.
            let upload = app.jobs.store.upload(&id)?;
            return match upload.and_then(|upload| upload.bytes) == Some(arrived.bytes) {
                true => Ok(()),
                false => Err(Problem::Conflict("another file has been uploaded already")),
            };
        }
        arrived.keep();
        files.remove_parts(&id);
        Ok(())
    })
    .await
}

/// Writes `chunks` to a file, within the limits.
async fn copy<S, E>(app: &App, id: &str, mut chunks: S) -> Result<PartialUpload, Problem>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Error + 'static,
{
    let mut partial = PartialUpload::new(app, id);
    let mut file = File::create(&partial.path).await.map_err(storage_error)?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| body_error(&error))?;
        partial.admit(chunk.len() as u64)?;
        file.write_all(&chunk).await.map_err(storage_error)?;
    }
    file.sync_all().await.map_err(storage_error)?;
    Ok(partial)
}

/// One attempt at an upload. It has a file of its own, so that concurrent attempts do not interfere; the file
/// is removed when this is dropped, unless it is kept.
struct PartialUpload {
    app: App,
    path: PathBuf,
    bytes: u64,
    kept: bool,
}

impl PartialUpload {
    fn new(app: &App, id: &str) -> Self {
        let path = part_path(app, id, &Uuid::new_v4().simple().to_string());
        Self { app: app.clone(), path, bytes: 0, kept: false }
    }

    /// Counts bytes that are about to be written, or refuses them.
    fn admit(&mut self, bytes: u64) -> Result<(), Problem> {
        let config = &self.app.config;
        if self.bytes + bytes > config.max_upload || !self.app.jobs.files.admit(bytes, config.keep.quota) {
            return Err(Problem::TooLarge);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// The file has got its final name: it is not removed.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for PartialUpload {
    fn drop(&mut self) {
        if !self.kept {
            // The file may not exist.
            let _ = std::fs::remove_file(&self.path);
            self.app.jobs.files.give_back(self.bytes);
        }
    }
}

async fn find(app: &App, id: &str) -> Result<Upload, Problem> {
    let id = id.to_string();
    let upload = app.blocking(move |app| Ok(app.jobs.store.upload(&id)?)).await?;
    upload.ok_or(Problem::NotFound("upload"))
}

async fn incomplete(app: &App, id: &str) -> Result<Upload, Problem> {
    let upload = find(app, id).await?;
    match upload.bytes {
        None => Ok(upload),
        Some(_) => Err(Problem::Conflict("the file has been uploaded already")),
    }
}

/// The file of a part, or of an attempt, of an upload. `id` comes from the database, never from a request.
fn part_path(app: &App, id: &str, part: &str) -> PathBuf {
    app.jobs.files.upload(&format!("{id}.{part}"))
}

fn storage_error(error: std::io::Error) -> Problem {
    tracing::error!("an upload cannot be stored: {error}");
    Problem::Server("the file cannot be stored".to_string())
}

/// A file name that is safe in URLs and headers.
fn safe_name(name: &str) -> String {
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let name: String = base.chars().map(keep).take(100).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "file".to_string() } else { name.to_string() }
}

/// The content type that an upload is served with: media types that a browser plays or displays but does not
/// run.
fn served_type(content_type: &str) -> HeaderValue {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let plain = ["video/", "audio/", "image/"].iter().any(|family| kind.starts_with(family));
    let served = if plain && !kind.contains("svg") { kind.as_str() } else { "application/octet-stream" };
    HeaderValue::from_str(served).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// Whether `ServeFile` supports the request's range. Otherwise (several ranges, a suffix longer than the
/// file, a conditional range) the whole file is a correct response.
fn is_simple_range(headers: &HeaderMap, bytes: u64) -> bool {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
    let suffix = range.strip_prefix("bytes=-").and_then(|last| last.parse::<u64>().ok());
    !range.contains(',') && suffix.is_none_or(|last| last < bytes) && !headers.contains_key(IF_RANGE)
}

/// The content type header.
pub fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/octet-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_urls() {
        assert_eq!(safe_name("../../etc/pass wd.mp4"), "pass_wd.mp4");
        assert_eq!(safe_name("C:\\a\\v.mov"), "v.mov");
        assert_eq!(safe_name("…"), "_");
        assert_eq!(safe_name(".."), "file");
    }

    #[test]
    fn nothing_that_a_browser_runs_is_served() {
        assert_eq!(served_type("video/mp4; codecs=avc1"), "video/mp4");
        for dangerous in ["text/html", "image/svg+xml", "application/javascript", ""] {
            assert_eq!(served_type(dangerous), "application/octet-stream");
        }
    }
}
