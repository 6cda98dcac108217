//! wavespeed's `bytedance/latentsync`: a video and an audio.

use super::fields::Fields;
use super::{Api, FieldError, Request};
use crate::options::DurationPolicy;

pub(super) fn parse(body: &Fields<'_>) -> Result<Request, FieldError> {
    Ok(Request {
        api: Api::WavespeedLatentsync,
        video: body.url("video")?,
        audio: body.url("audio")?,
        guidance_scale: None,
        seed: None,
        duration: DurationPolicy::default(),
        ignored: Vec::new(),
    })
}
