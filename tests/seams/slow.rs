//! The measurements.

mod chunks;
mod mask;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};

use crate::shared_material;

fn media() -> PathBuf {
    shared_material::directory().join("media")
}

/// The first `count` frames of a video.
fn frames(path: &Path, count: usize) -> Vec<Tensor> {
    let mut reader = VideoReader::open(path, VideoOptions::default()).unwrap();
    std::iter::from_fn(|| reader.next().unwrap().map(|picture| picture.to_rgb().unwrap()))
        .take(count)
        .collect()
}
