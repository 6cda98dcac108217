//! JoggAI's `create_lip_sync_video`: two URLs and `playback_type`, which is `normal` when absent.

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::PlaybackType;

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    Ok(Request {
        api: Api::Jogg,
        video: body.url("video_url")?,
        audio: body.url("audio_url")?,
        guidance_scale: None,
        seed: None,
        duration: body.name("playback_type", PlaybackType::NAMES)?.unwrap_or(PlaybackType::Normal).policy(),
        ignored: Vec::new(),
    })
}
