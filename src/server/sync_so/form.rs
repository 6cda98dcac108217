//! A generation as a form: the files become uploads, everything else is JSON or text.

use axum::extract::Multipart;
use axum::extract::multipart::Field;
use serde_json::{Map, Value, json};

use crate::request::FieldError;
use crate::server::app::{App, Caller};
use crate::server::problem::{Problem, unreadable};
use crate::server::{media, reply};

/// Bytes of all that is not a file.
const MAX_TEXT: usize = 1 << 20;

/// The form as the JSON that says the same, and the uploads that were made of it.
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
    let wrong = |field: &str, problem: String| FieldError { field: field.to_string(), problem };
    let mut fields = Map::new();
    let mut inputs: Vec<Value> = Vec::new();
    let mut room = MAX_TEXT;
    while let Some(part) = form.next_field().await.map_err(|error| unreadable(&error))? {
        let name = part.name().unwrap_or_default().to_string();
        if matches!(name.as_str(), "video" | "audio") {
            if inputs.iter().any(|input| input["type"] == *name) {
                return Err(wrong(&name, "is there more than once".to_string()).into());
            }
            let kind = part.content_type().unwrap_or("application/octet-stream").to_string();
            let file_name = part.file_name().unwrap_or(&name).to_string();
            let slot = media::reserve(app, caller, &file_name, &kind).await?;
            files.push(slot.id.clone());
            media::fill(app, &slot.id, part).await?;
            inputs.push(json!({"type": name, "url": slot.url}));
        } else {
            let text = text(part, &mut room).await?;
            let value = match name.as_str() {
                // An empty field of a form is none.
                "input" | "options" | "segments" if text.trim().is_empty() => Value::Null,
                "input" | "options" | "segments" => {
                    reply::json_of(text.as_bytes()).map_err(|problem| match problem {
                        Problem::Body(_) => Problem::from(wrong(&name, "is not JSON".to_string())),
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

/// A field that is no file, as far as there is `room` for it.
async fn text(mut part: Field<'_>, room: &mut usize) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = part.chunk().await.map_err(|error| unreadable(&error))? {
        *room = room.checked_sub(piece.len()).ok_or(Problem::TooLarge)?;
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| Problem::Body("a field of the form is not text".to_string()))
}
