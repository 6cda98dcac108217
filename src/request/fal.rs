//! fal's `fal-ai/latentsync`: the input is the body itself.

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::{DurationPolicy, LoopMode};

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    Ok(Request {
        api: Api::Fal,
        video: body.url("video_url")?,
        audio: body.url("audio_url")?,
        guidance_scale: body.number("guidance_scale", 1.0..=2.0)?,
        seed: body.seed("seed")?,
        duration: body
            .name::<LoopMode>("loop_mode", LoopMode::NAMES)?
            .map_or(DurationPolicy::default(), LoopMode::policy),
        ignored: Vec::new(),
    })
}
