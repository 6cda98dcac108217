//! wavespeed's uploads: a URL for a PUT request, and the older multipart form.

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;

use super::success;
use crate::request::{FieldError, Fields};
use crate::server::app::{App, Caller};
use crate::server::problem::{Problem, body_error};
use crate::server::{media, reply};

/// Creates an upload and returns its URL.
pub async fn begin(
    State(app): State<App>,
    caller: Caller,
    reply::Body(body): reply::Body,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body)?;
    let name = fields.required("filename", fields.string("filename")?)?;
    let size = fields.required("size", fields.count("size", 0..=u64::MAX)?)?;
    let kind = fields.string("content_type")?.unwrap_or("application/octet-stream");
    if size > app.config.max_upload {
        return Err(Problem::TooLarge);
    }
    let slot = media::reserve(&app, &caller, name, kind).await?;
    Ok(success(&json!({
        "upload": {"method": "PUT", "url": slot.url, "headers": {"Content-Type": kind}},
        "download_url": slot.url,
    })))
}

/// Uploads the form field `file`.
pub async fn form(State(app): State<App>, caller: Caller, request: Request) -> Result<Response, Problem> {
    let mut form = reply::form(request, &()).await?;
    while let Some(part) = form.next_field().await.map_err(|error| body_error(&error))? {
        if part.name() != Some("file") {
            continue;
        }
        let name = part.file_name().unwrap_or("upload.bin").to_string();
        let kind = part.content_type().unwrap_or("application/octet-stream").to_string();
        let slot = media::reserve(&app, &caller, &name, &kind).await?;
        let filled = media::fill(&app, &slot.id, part).await;
        if filled.is_err() {
            media::discard(&app, vec![slot.id]).await;
        }
        let size = filled?;
        return Ok(success(&json!({
            "type": kind.split('/').next(), "download_url": slot.url, "filename": name, "size": size,
        })));
    }
    Err(FieldError::new("file", "is missing").into())
}
