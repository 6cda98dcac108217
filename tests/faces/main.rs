//! The built-in face detector: accuracy and steadiness of its anchors, tracking of several people, and cuts.
//!
//! All tests need dlib's landmark model (`LATENTSYNC_DLIB_MODEL`, or the path of Debian's package libdlib-data), and
//! those in `shared` real clips of the shared material. They are ignored by default: `cargo test --release --test
//! faces -- --ignored shared:: system::`.
#![cfg(feature = "media")]

mod shared;
mod system;

#[path = "../support/shared.rs"]
mod shared_material;

use std::path::PathBuf;

/// dlib's landmark model.
fn dlib_model() -> PathBuf {
    std::env::var_os("LATENTSYNC_DLIB_MODEL")
        .map_or_else(|| "/usr/share/dlib/shape_predictor_68_face_landmarks.dat".into(), PathBuf::from)
}
