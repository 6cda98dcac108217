//! The clip of `models/demo`: a drawn face of 480 × 480 pixels, 125 frames at 25 fps without sound, its anchors, and
//! two spoken sentences.

use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(name)
}

pub fn video() -> PathBuf {
    file("face.mp4")
}

#[allow(dead_code, reason = "not every test program needs the anchors")]
pub fn anchors() -> PathBuf {
    file("face.anchors.json")
}

/// 3.9 s of speech, 16 kHz mono.
pub fn voice() -> PathBuf {
    file("voice-2.wav")
}
