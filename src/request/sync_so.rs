//! sync.so's `v2/generate`: a list of typed inputs, and `options`. The default `sync_mode` is not documented;
//! `cut_off` is that of its resellers.

use serde_json::Value;

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::SyncMode;

/// Options of sync.so's models that this engine ignores.
const IGNORED_OPTIONS: [&str; 5] =
    ["temperature", "active_speaker_detection", "occlusion_detection_enabled", "model_mode", "prompt"];
/// Characters of a result's file name.
const MAX_NAME_CHARS: usize = 255;

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    match body.get("segments") {
        None => {}
        Some(Value::Array(segments)) if segments.is_empty() => {}
        Some(Value::Array(_)) => {
            let problem = "is not supported: one voice for the whole video";
            return Err(FieldError::new(&body.path("segments"), problem));
        }
        Some(other) => return Err(FieldError::wrong_type(&body.path("segments"), "an array", other)),
    }
    output_name(body)?;
    let Files { video, audio } = files(body)?;
    let no = |kind: &str| FieldError::new(&body.path("input"), &format!("has no {kind}"));
    let options = body.object("options")?;
    let mode = match &options {
        Some(options) => options.name("sync_mode", SyncMode::NAMES)?,
        None => None,
    };
    Ok(Request {
        api: Api::SyncSo,
        video: video.ok_or_else(|| no("video"))?,
        audio: audio.ok_or_else(|| no("audio"))?,
        guidance_scale: None,
        seed: None,
        duration: mode.unwrap_or(SyncMode::CutOff).policy(),
        ignored: options.map(|options| options.present(&IGNORED_OPTIONS)).unwrap_or_default(),
    })
}

/// The URLs in the list of inputs.
struct Files {
    video: Option<String>,
    audio: Option<String>,
}

fn files(body: &Fields<'_>) -> Result<Files, FieldError> {
    let inputs = match body.required("input", body.get("input"))? {
        Value::Array(inputs) => inputs,
        other => return Err(FieldError::wrong_type(&body.path("input"), "an array", other)),
    };
    let (mut video, mut audio) = (None, None);
    for (i, input) in inputs.iter().enumerate() {
        let input = Fields::at(&format!("input.{i}"), input)?;
        let kind = input.required("type", input.string("type")?)?;
        for part in ["segments_secs", "segments_frames"] {
            if input.get(part).is_some() {
                return Err(FieldError::new(
                    &input.path(part),
                    "is not supported: one voice for the whole video",
                ));
            }
        }
        let slot = match kind {
            "video" => &mut video,
            "audio" => &mut audio,
            "text" => {
                let problem = "is `text`, which is not supported: this engine has no voice of its own";
                return Err(FieldError::new(&input.path("type"), problem));
            }
            _ => {
                let problem = format!("is `{kind}`: it must be `video` or `audio`");
                return Err(FieldError::new(&input.path("type"), &problem));
            }
        };
        if slot.replace(input.url("url")?).is_some() {
            return Err(FieldError::new(&body.path("input"), &format!("has more than one {kind}")));
        }
    }
    Ok(Files { video, audio })
}

/// Checks the result's file name, which has no extension and only characters that are safe in a path.
fn output_name(body: &Fields<'_>) -> Result<(), FieldError> {
    let Some(name) = body.string("outputFileName")? else { return Ok(()) };
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !plain {
        let problem = format!(
            "must be 1 to {MAX_NAME_CHARS} letters, digits, underscores and hyphens, without an extension"
        );
        return Err(FieldError::new(&body.path("outputFileName"), &problem));
    }
    Ok(())
}
