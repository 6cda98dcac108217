//! Alignment, crops and blending of faces, on the frames of a video.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Result, Tensor};
use latentsync::media::colour::ColourMode;
use latentsync::stages::align_faces::{FaceAligner, cut_out};
use latentsync::stages::blend_faces::{Blending, blend_face};
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use models::face::Anchors;
use models::mouth_mask::MouthMask;

use crate::faces::check_affine_matrices;
use crate::golden::{GoldenSet, PipelineCase, psnr};

/// The golden set's whole job.
struct Case {
    tensors: HashMap<String, Tensor>,
    /// One per frame of the video.
    anchors: Vec<Anchors>,
    video: PathBuf,
}

impl Case {
    fn open() -> Self {
        let set = GoldenSet::shared();
        let PipelineCase { dir, anchors, video, .. } = set.manifest.pipeline.as_ref().expect("a pipeline");
        Self {
            tensors: set.tensors(dir.join("pipeline_golden.safetensors")),
            anchors: read_anchors(&set.path(anchors)),
            video: set.path(video),
        }
    }

    /// The tensor `{name}_A_B…`, one picture for each of the frames A, B, …, and those frames.
    fn pictures(&self, name: &str) -> (&Tensor, Vec<usize>) {
        let found = self.tensors.iter().find_map(|(key, tensor)| {
            let numbers = key.strip_prefix(name)?.strip_prefix('_')?;
            let frames = numbers.split('_').map(|number| number.parse().ok()).collect::<Option<_>>()?;
            Some((tensor, frames))
        });
        found.unwrap_or_else(|| panic!("the golden set has no `{name}_…`"))
    }

    /// Side of the face crop.
    fn resolution(&self) -> Result<usize> {
        self.pictures("face_rgb").0.dim(1)
    }
}

/// An anchor file: left brow, right brow and nose of every frame.
pub fn read_anchors(path: &Path) -> Vec<Anchors> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let points: Vec<[[f32; 2]; 3]> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let anchors = points.into_iter();
    anchors.map(|[left_brow, right_brow, nose]| Anchors { left_brow, right_brow, nose }).collect()
}

/// The first frames of a video, as the original reads them.
pub fn first_frames(path: &Path, count: usize) -> Result<Vec<Tensor>> {
    let options = VideoOptions { colour: ColourMode::ReferenceBt601, ..VideoOptions::default() };
    let mut reader = VideoReader::open(path, options).map_err(candle_core::Error::wrap)?;
    let mut frames = Vec::new();
    while frames.len() < count {
        let picture = reader.next().map_err(candle_core::Error::wrap)?;
        let picture = picture.expect("the video is shorter than the golden set says");
        frames.push(picture.to_rgb().map_err(candle_core::Error::wrap)?);
    }
    Ok(frames)
}

#[test]
#[ignore = "needs the shared material"]
fn affine_matrices_equal_the_original() -> Result<()> {
    let case = Case::open();
    check_affine_matrices(&case.anchors, case.resolution()?, &case.tensors["affine_matrices"])
}

#[test]
#[ignore = "needs the shared material"]
fn crops_and_faces_equal_the_original() -> Result<()> {
    let case = Case::open();
    let resolution = case.resolution()?;
    for name in ["crop_rgb", "face_rgb"] {
        let (want, indices) = case.pictures(name);
        let mut frames = first_frames(&case.video, indices.iter().max().map_or(0, |last| last + 1))?;
        frames[0] = case.tensors["input_frame_0_rgb"].clone();
        let mut aligner = FaceAligner::new(resolution);
        for (index, (frame, anchors)) in frames.iter().zip(&case.anchors).enumerate() {
            // The aligner smooths a bias from frame to frame, so every frame goes through it.
            let face = aligner.align(frame, anchors)?;
            let Some(row) = indices.iter().position(|&wanted| wanted == index) else { continue };
            let out = match name {
                "crop_rgb" => cut_out(frame, &face.matrix, resolution)?,
                _ => face.crop,
            };
            let db = psnr(&out, &want.get(row)?)?;
            eprintln!("{name} of frame {index}: {db:.1} dB");
            assert!(db >= 45.0, "{name} of frame {index}: {db:.1} dB");
        }
    }
    Ok(())
}

/// Around the mouth, the final frame is the aligned face pasted back, which needs no networks. A pixel is outside the
/// mouth if a black and a white mouth give it the same value.
#[test]
#[ignore = "needs the shared material"]
fn the_final_frame_around_the_mouth_equals_the_original() -> Result<()> {
    let case = Case::open();
    let indices = case.tensors["frame_index"].to_vec1::<i64>()?;
    let row = indices.iter().position(|&index| index == 0).expect("final frame 0");
    let frame = &case.tensors["input_frame_0_rgb"];
    let resolution = case.resolution()?;
    let aligned = FaceAligner::new(resolution).align(frame, &case.anchors[0])?;
    let original = ((aligned.crop.to_dtype(DType::F32)? / 127.5)? - 1.0)?;
    let mask = MouthMask::new(resolution)?;
    let with_mouth = |level: f64| {
        let mouth = mask.pixels().affine(-level, level)?;
        let face = original.broadcast_mul(mask.pixels())?.broadcast_add(&mouth)?;
        blend_face(frame, &face, &aligned.matrix, Blending::default())?.applied_to(frame)
    };
    let (black, white) = (with_mouth(-1.0)?, with_mouth(1.0)?);
    let outside = black.eq(&white)?.min_keepdim(2)?;
    let around = |x: &Tensor| x.broadcast_mul(&outside);
    let want = case.tensors["frames_rgb"].get(row)?;
    let pasted = outside.ne(&frame.eq(&want)?.min_keepdim(2)?)?;
    let pasted = pasted.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    assert!(pasted > 1000.0, "the golden frame equals the input frame");

    let db = psnr(&around(&black)?, &around(&want)?)?;
    let share = outside.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    eprintln!("final frame 0 around the mouth ({:.1} % of it): {db:.1} dB", share * 100.0);
    assert!(share > 0.5 && share < 1.0, "{share} of the frame is outside the mouth");
    assert!(db >= 45.0, "{db:.1} dB");
    Ok(())
}
