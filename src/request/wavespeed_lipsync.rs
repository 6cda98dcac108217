//! wavespeed's `sync/lipsync-1.9.0-beta`: a video, an audio and `sync_mode`, which is `cut_off` when absent.

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::SyncMode;

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    Ok(Request {
        api: Api::WavespeedLipsync,
        video: body.url("video")?,
        audio: body.url("audio")?,
        guidance_scale: None,
        seed: None,
        duration: body.name("sync_mode", SyncMode::NAMES)?.unwrap_or(SyncMode::CutOff).policy(),
        ignored: Vec::new(),
    })
}
