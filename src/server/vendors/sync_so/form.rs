//! A generation as a multipart form: files become uploads, the other fields are JSON or text.

use axum::extract::Multipart;
use axum::extract::multipart::Field;
use serde_json::{Map, Value, json};

use crate::request::FieldError;
use crate::server::app::{App, Caller};
use crate::server::problem::{Problem, body_error};
use crate::server::{media, reply};

/// Bytes of all fields that are not files, together.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// The equivalent JSON body, and the identifiers of the uploads that were created.
pub async fn read(app: &App, caller: &Caller, form: Multipart) -> Result<(Value, Vec<String>), Problem> {
    let mut files = Vec::new();
    match fields(app, caller, form, &mut files).await {
        Ok(body) => Ok((body, files)),
        Err(problem) => {
            media::discard(app, files).await;
            Err(problem)
        }
    }
}

async fn fields(
    app: &App,
    caller: &Caller,
    mut form: Multipart,
    files: &mut Vec<String>,
) -> Result<Value, Problem> {
    let mut fields = Map::new();
    let mut inputs: Vec<Value> = Vec::new();
    let mut budget = MAX_TEXT_BYTES;
    while let Some(part) = form.next_field().await.map_err(|error| body_error(&error))? {
        let name = part.name().unwrap_or_default().to_string();
        if matches!(name.as_str(), "video" | "audio") {
            if inputs.iter().any(|input| input["type"] == *name) {
                return Err(FieldError::new(&name, "is there more than once").into());
            }
            let kind = part.content_type().unwrap_or("application/octet-stream").to_string();
            let file_name = part.file_name().unwrap_or(&name).to_string();
            let slot = media::reserve(app, caller, &file_name, &kind).await?;
            files.push(slot.id.clone());
            media::fill(app, &slot.id, part).await?;
            inputs.push(json!({"type": name, "url": slot.url}));
        } else {
            let text = text(part, &mut budget).await?;
            let value = match name.as_str() {
                // An empty form field counts as absent.
                "input" | "options" | "segments" if text.trim().is_empty() => Value::Null,
                "input" | "options" | "segments" => {
                    reply::json_of(text.as_bytes()).map_err(|problem| match problem {
                        Problem::Body(_) => Problem::from(FieldError::new(&name, "is not JSON")),
                        problem => problem,
                    })?
                }
                _ => Value::String(text),
            };
            fields.insert(name, value);
        }
    }
    match fields.remove("input") {
        Some(Value::Array(named)) => inputs.extend(named),
        Some(Value::Null) | None => {}
        Some(one) => inputs.push(one),
    }
    fields.insert("input".to_string(), inputs.into());
    Ok(Value::Object(fields))
}

/// The text of a field. Its bytes are taken from `budget`; a field that is longer is refused.
async fn text(mut part: Field<'_>, budget: &mut usize) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|error| body_error(&error))? {
        *budget = budget.checked_sub(chunk.len()).ok_or(Problem::TooLarge)?;
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Problem::Body("a field of the form is not text".to_string()))
}
