//! Request bodies of the hosted APIs, reduced to the parameters of this engine. One file per API. The command
//! line reads a body from a file, the server from a connection. URLs are not fetched here.
//!
//! To add an API, add a file with its `parse` function and a row of `apis!`.

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
pub(crate) use fields::{Fields, integer, seed};

/// Bytes of a request file. Bodies have a few hundred; the limit protects from files named by mistake.
const MAX_BYTES: u64 = 1 << 20;

/// Defines [`Api`] from one row per API: documentation, variant, name, and the module that parses its bodies.
macro_rules! apis {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $module:ident;)*) => {
        /// The API that a request body belongs to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Api {
            $($(#[$doc])* $variant,)*
        }

        impl Api {
            pub const ALL: [Api; [$(Api::$variant),*].len()] = [$(Api::$variant),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Api::$variant => $name,)*
                }
            }

            fn parse(self, body: &fields::Fields<'_>) -> Result<Request, FieldError> {
                match self {
                    $(Api::$variant => $module::parse(body),)*
                }
            }
        }
    };
}

apis! {
    /// `fal-ai/latentsync`.
    Fal, "fal", fal;
    /// `fal-ai/sync-lipsync`.
    FalLipsync, "fal-lipsync", fal_lipsync;
    /// eachlabs' `latentsync`.
    Eachlabs, "eachlabs", eachlabs;
    /// wavespeed's `bytedance/latentsync`.
    WavespeedLatentsync, "wavespeed-latentsync", wavespeed_latentsync;
    /// wavespeed's `sync/lipsync-1.9.0-beta`.
    WavespeedLipsync, "wavespeed-lipsync", wavespeed_lipsync;
    /// JoggAI's `create_lip_sync_video`.
    Jogg, "jogg", jogg;
    /// sync.so's `v2/generate`.
    SyncSo, "sync-so", sync_so;
}

impl Api {
    /// Detects the API by the fields of the body.
    ///
    /// APIs with the same required fields are distinguished by an optional one: `playback_type` is JoggAI's,
    /// and `sync_mode` belongs to `fal-ai/sync-lipsync` or wavespeed's `sync/lipsync-1.9.0-beta`. Without
    /// either, the API is fal's or wavespeed's LatentSync.
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

/// The parameters in a body. `video` and `audio` are as in the body: URLs or, for the command line, paths.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub api: Api,
    pub video: String,
    pub audio: String,
    pub guidance_scale: Option<f64>,
    pub seed: Option<u64>,
    pub duration: DurationPolicy,
    /// Present fields that the vendor supports and this engine ignores.
    pub ignored: Vec<String>,
}

impl Request {
    /// Parses a body. Without `api`, the API is detected by [`Api::detect`].
    pub fn from_json(body: &Value, api: Option<Api>) -> Result<Self, FieldError> {
        let api = match api {
            Some(api) => api,
            None => Api::detect(body)?,
        };
        api.parse(&fields::Fields::new(body)?)
    }

    /// Reads and parses a body from a file.
    pub fn read(path: &Path, api: Option<Api>) -> Result<Self> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
            .map_err(|source| system::Error::ReadFile { path: path.to_path_buf(), source })?;
        let refuse = |source| Error::Refused { path: path.to_path_buf(), source };
        if text.len() as u64 > MAX_BYTES {
            return Err(refuse(FieldError::new("", &format!("is longer than {MAX_BYTES} bytes"))));
        }
        // Some editors begin a file with a byte order mark.
        let body: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| refuse(FieldError::new("", &format!("is not JSON: {error}"))))?;
        Self::from_json(&body, api).map_err(refuse)
    }

    /// Sets the options that the request has.
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
