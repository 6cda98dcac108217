//! Reading and resampling of audio files, and voice activity detection.

mod error;
mod read;
#[cfg(feature = "media")]
mod decode;
mod speech;
mod activity;

pub use activity::VoiceActivity;
pub use error::{Error, Result};
pub use read::{load_speech, load_speech_until};
pub use speech::Speech;
