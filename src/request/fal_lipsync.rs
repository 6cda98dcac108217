//! fal's `fal-ai/sync-lipsync`: two URLs and `sync_mode`, which is `cut_off` when absent. The `model` field
//! has no effect: all of sync.so's models stand for the one that is loaded.

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::SyncMode;

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    body.string("model")?;
    Ok(Request {
        api: Api::FalLipsync,
        video: body.url("video_url")?,
        audio: body.url("audio_url")?,
        guidance_scale: None,
        seed: None,
        duration: body.name("sync_mode", SyncMode::NAMES)?.unwrap_or(SyncMode::CutOff).policy(),
        ignored: body.present(&["model"]),
    })
}
