//! The bodies of the hosted APIs' requests, reduced to what this engine computes with. One file per API;
//! the command line reads a body from a file, the server from a connection. Nothing here fetches a URL.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::options::{DurationPolicy, InvalidOption, Options};
use crate::system;

pub mod fal;
pub mod fal_lipsync;
pub mod eachlabs;
pub mod wavespeed_latentsync;
pub mod wavespeed_lipsync;
pub mod jogg;
pub mod sync_so;
mod fields;
mod error;

pub use error::{Error, Result};
pub use fields::FieldError;
#[cfg(feature = "server")]
pub(crate) use fields::{Fields, seed, whole};

/// Bodies are a few hundred bytes; a file named by mistake, or one without an end, is not read whole.
const MAX_BYTES: u64 = 1 << 20;

/// Whose request a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `fal-ai/latentsync`.
    Fal,
    /// `fal-ai/sync-lipsync`.
    FalLipsync,
    /// eachlabs' `latentsync`.
    Eachlabs,
    /// wavespeed's `bytedance/latentsync`.
    WavespeedLatentsync,
    /// wavespeed's `sync/lipsync-1.9.0-beta`.
    WavespeedLipsync,
    /// JoggAI's `create_lip_sync_video`.
    Jogg,
    /// sync.so's `v2/generate`.
    SyncSo,
}

impl Api {
    pub const ALL: [Api; 7] = [
        Api::Fal,
        Api::FalLipsync,
        Api::Eachlabs,
        Api::WavespeedLatentsync,
        Api::WavespeedLipsync,
        Api::Jogg,
        Api::SyncSo,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Api::Fal => "fal",
            Api::FalLipsync => "fal-lipsync",
            Api::Eachlabs => "eachlabs",
            Api::WavespeedLatentsync => "wavespeed-latentsync",
            Api::WavespeedLipsync => "wavespeed-lipsync",
            Api::Jogg => "jogg",
            Api::SyncSo => "sync-so",
        }
    }

    /// Tells the API by the body's shape.
    ///
    /// Some share their required fields, and an optional one decides: `playback_type` makes a fal body
    /// JoggAI's, `sync_mode` makes it the one of `fal-ai/sync-lipsync`, and wavespeed's the one of
    /// `sync/lipsync-1.9.0-beta`. Without it the body is read as LatentSync's own.
    pub fn detect(body: &Value) -> Result<Api, FieldError> {
        let Value::Object(body) = body else {
            return Err(FieldError::wrong_type("", "an object", body));
        };
        let has = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
        match body.get("input") {
            Some(Value::Array(_)) => return Ok(Api::SyncSo),
            Some(Value::Object(_)) => return Ok(Api::Eachlabs),
            _ => {}
        }
        let urls = has("video_url") || has("audio_url");
        let plain = has("video") || has("audio");
        let of_latentsync = has("guidance_scale") || has("loop_mode") || has("seed");
        match (urls, plain) {
            (true, true) => Err(FieldError::new("", "has both `video_url`/`audio_url` and `video`/`audio`")),
            (true, false) if has("playback_type") && of_latentsync => {
                Err(FieldError::new("playback_type", fields::AMBIGUOUS_API))
            }
            (true, false) if has("playback_type") => Ok(Api::Jogg),
            (true, false) if has("sync_mode") => Ok(Api::FalLipsync),
            (true, false) => Ok(Api::Fal),
            (false, true) if has("sync_mode") => Ok(Api::WavespeedLipsync),
            (false, true) => Ok(Api::WavespeedLatentsync),
            (false, false) => Err(FieldError::new(
                "",
                "names no video and no audio: expected `video_url` and `audio_url`, `video` and `audio`, or `input`",
            )),
        }
    }
}

impl FromStr for Api {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        Api::ALL.into_iter().find(|api| api.name() == text).ok_or_else(|| InvalidOption::Value {
            option: "request_api",
            value: text.to_string(),
            expected: format!("one of {}", Api::ALL.map(Api::name).join(", ")),
        })
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a body asks for. `video` and `audio` are as written: URLs or, for the command line, paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub api: Api,
    pub video: String,
    pub audio: String,
    pub guidance_scale: Option<f64>,
    pub seed: Option<u64>,
    pub duration: DurationPolicy,
    /// Fields that the vendor acts upon and this engine does not.
    pub ignored: Vec<String>,
}

impl Request {
    /// Reads a body; `api` overrides the detection by shape.
    pub fn from_json(body: &Value, api: Option<Api>) -> Result<Self, FieldError> {
        let api = match api {
            Some(api) => api,
            None => Api::detect(body)?,
        };
        let fields = fields::Fields::new(body)?;
        match api {
            Api::Fal => fal::parse(&fields),
            Api::FalLipsync => fal_lipsync::parse(&fields),
            Api::Eachlabs => eachlabs::parse(&fields),
            Api::WavespeedLatentsync => wavespeed_latentsync::parse(&fields),
            Api::WavespeedLipsync => wavespeed_lipsync::parse(&fields),
            Api::Jogg => jogg::parse(&fields),
            Api::SyncSo => sync_so::parse(&fields),
        }
    }

    /// Reads a body from a file.
    pub fn read(path: &Path, api: Option<Api>) -> Result<Self> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
            .map_err(|source| system::Error::ReadFile { path: path.to_path_buf(), source })?;
        let refuse = |source| Error::Refused { path: path.to_path_buf(), source };
        if text.len() as u64 > MAX_BYTES {
            return Err(refuse(FieldError::new("", &format!("is longer than {MAX_BYTES} bytes"))));
        }
        // Some editors put a byte order mark before the text.
        let body: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| refuse(FieldError::new("", &format!("is not JSON: {error}"))))?;
        Self::from_json(&body, api).map_err(refuse)
    }

    /// Takes over what the request says; what it does not mention stays.
    pub fn apply(&self, options: &mut Options) {
        options.duration = self.duration;
        if let Some(guidance_scale) = self.guidance_scale {
            options.guidance_scale = guidance_scale;
        }
        if self.seed.is_some() {
            options.seed = self.seed;
        }
    }
}

type Object = Map<String, Value>;

#[cfg(test)]
mod tests;
