//! How visible are the seams of a generated mouth: around the mouth mask, and between the chunks in which the networks
//! work. Measurements on the real clips, for `--ignored --nocapture`; `SEAM_PICTURES` names a directory for pictures.
//! Skipped by name where `../shared` (or `LATENTSYNC_SHARED`) is not there.
#![cfg(feature = "media")]

#[path = "seams/mask.rs"]
mod mask;
#[path = "seams/chunks.rs"]
mod chunks;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};

fn shared() -> Option<PathBuf> {
    let shared = std::env::var_os("LATENTSYNC_SHARED").map_or_else(|| "../shared".into(), PathBuf::from);
    if !shared.join("media").is_dir() {
        eprintln!("skipped: no `{}` (set LATENTSYNC_SHARED)", shared.join("media").display());
        return None;
    }
    Some(shared)
}

/// The first `count` frames.
fn frames(path: &Path, count: usize) -> Vec<Tensor> {
    let mut reader = VideoReader::open(path, VideoOptions::default()).unwrap();
    std::iter::from_fn(|| reader.next().unwrap().map(|picture| picture.to_rgb().unwrap()))
        .take(count)
        .collect()
}
