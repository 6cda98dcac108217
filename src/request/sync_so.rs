//! sync.so's `v2/generate`: a list of typed inputs, and `options`. Its default `sync_mode` is not
//! documented; this is the one of those who resell it, `cut_off`.

use serde_json::Value;

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::SyncMode;

/// What sync.so's models offer and this one does not.
const IGNORED_OPTIONS: [&str; 5] =
    ["temperature", "active_speaker_detection", "occlusion_detection_enabled", "model_mode", "prompt"];

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    if matches!(body.get("segments"), Some(Value::Array(segments)) if !segments.is_empty()) {
        return Err(FieldError::new(
            &body.path("segments"),
            "is not supported: one voice for the whole video",
        ));
    }
    let inputs = match body.required("input", body.get("input"))? {
        Value::Array(inputs) => inputs,
        other => return Err(FieldError::wrong_type(&body.path("input"), "an array", other)),
    };
    let (mut video, mut audio) = (None, None);
    for (i, input) in inputs.iter().enumerate() {
        let input = Fields::at(&format!("input.{i}"), input)?;
        let kind = input.required("type", input.string("type")?)?;
        let slot = match kind {
            "video" => &mut video,
            "audio" => &mut audio,
            _ => {
                let problem = format!("is `{kind}`: it must be `video` or `audio`");
                return Err(FieldError::new(&input.path("type"), &problem));
            }
        };
        if slot.replace(input.url("url")?).is_some() {
            return Err(FieldError::new(&body.path("input"), &format!("has more than one {kind}")));
        }
    }
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
