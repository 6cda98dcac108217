//! Placing, cutting out and pasting back faces.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Result, Tensor};
use latentsync::media::colour::ColourMode;
use latentsync::stages::align_faces::{FaceAligner, cut_out};
use latentsync::stages::blend_faces::{Blending, blend_face};
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use models::face::Anchors;
use models::mouth_mask::MouthMask;

use crate::common::{Golden, PipelineCase, psnr};

/// The golden set's whole job.
struct Case {
    tensors: HashMap<String, Tensor>,
    /// Of every frame of the video.
    anchors: Vec<Anchors>,
    video: PathBuf,
}

fn case() -> Option<Case> {
    let golden = Golden::open()?;
    let Some(PipelineCase { dir, anchors, video, .. }) = &golden.manifest.pipeline else {
        eprintln!("skipped: the golden set has no `pipeline`");
        return None;
    };
    let tensors = golden.tensors(dir.join("pipeline_golden.safetensors"))?;
    let path = golden.path(anchors);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let points: Vec<[[f32; 2]; 3]> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let anchors =
        points.into_iter().map(|[left_brow, right_brow, nose]| Anchors { left_brow, right_brow, nose });
    Some(Case { tensors, anchors: anchors.collect(), video: golden.path(video) })
}

/// The tensor `{name}_A_B…`, which holds one picture for each of the frames A, B, …, and those frames.
fn pictures<'a>(tensors: &'a HashMap<String, Tensor>, name: &str) -> Option<(&'a Tensor, Vec<usize>)> {
    let found = tensors.iter().find_map(|(key, tensor)| {
        let numbers = key.strip_prefix(name)?.strip_prefix('_')?;
        let frames = numbers.split('_').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        Some((tensor, frames))
    });
    if found.is_none() {
        eprintln!("skipped: the golden set has no `{name}_…`");
    }
    found
}

#[test]
fn affine_matrices() -> Result<()> {
    let Some(Case { tensors, anchors, .. }) = case() else {
        return Ok(());
    };
    let want = tensors["affine_matrices"].to_vec3::<f32>()?;
    assert_eq!(anchors.len(), want.len(), "one matrix per frame");
    let Some((faces, _)) = pictures(&tensors, "face_rgb") else { return Ok(()) };
    let mut aligner = FaceAligner::new(faces.dim(1)?);
    let mut worst = 0f64;
    for (anchors, want) in anchors.iter().zip(&want) {
        let matrix = aligner.matrix(anchors)?.0;
        for (out, &want) in matrix.as_flattened().iter().zip(want.iter().flatten()) {
            worst = worst.max((out - f64::from(want)).abs());
        }
    }
    eprintln!("affine matrices: at most {worst:.1e} off");
    assert!(worst <= 1e-3, "{worst}");
    Ok(())
}

#[test]
fn crops_and_faces() -> Result<()> {
    let Some(Case { tensors, anchors, video }) = case() else {
        return Ok(());
    };
    for name in ["crop_rgb", "face_rgb"] {
        let Some((want, indices)) = pictures(&tensors, name) else { continue };
        let Some((faces, _)) = pictures(&tensors, "face_rgb") else { continue };
        let resolution = faces.dim(1)?;
        let mut frames = first_frames(&video, indices.iter().max().map_or(0, |last| last + 1))?;
        if let Some(first) = tensors.get("input_frame_0_rgb") {
            frames[0] = first.clone();
        }
        let mut aligner = FaceAligner::new(resolution);
        for (index, (frame, anchors)) in frames.iter().zip(&anchors).enumerate() {
            // The bias is smoothed from frame to frame: all of them are needed.
            let face = aligner.align(frame, anchors)?;
            let Some(place) = indices.iter().position(|&wanted| wanted == index) else { continue };
            let out = match name {
                "crop_rgb" => cut_out(frame, &face.matrix, resolution)?,
                _ => face.crop,
            };
            let db = psnr(&out, &want.get(place)?)?;
            eprintln!("{name} of frame {index}: {db:.1} dB");
            assert!(db >= 45.0, "{name} of frame {index}: {db:.1} dB");
        }
    }
    Ok(())
}

/// The first frames of the set's video as the original reads them.
fn first_frames(path: &Path, count: usize) -> Result<Vec<Tensor>> {
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

/// Around the mouth the final frame holds what was generated, elsewhere what was cut out and pasted back:
/// that part needs no networks. A pixel belongs to it if black and white mouths give it the same value.
#[test]
fn final_frame_around_the_mouth() -> Result<()> {
    let Some(Case { tensors, anchors, .. }) = case() else {
        return Ok(());
    };
    let Some(place) = tensors["frame_index"].to_vec1::<i64>()?.iter().position(|&index| index == 0) else {
        eprintln!("skipped: the golden set has no final frame 0");
        return Ok(());
    };
    let (Some(frame), Some((faces, _))) = (tensors.get("input_frame_0_rgb"), pictures(&tensors, "face_rgb"))
    else {
        eprintln!("skipped: the golden set has no first frame to paste on");
        return Ok(());
    };
    let resolution = faces.dim(1)?;
    let aligned = FaceAligner::new(resolution).align(frame, &anchors[0])?;
    let original = ((aligned.crop.to_dtype(DType::F32)? / 127.5)? - 1.0)?;
    let mask = MouthMask::new(resolution)?;
    let with_mouth = |level: f64| {
        let mouth = mask.pixels().affine(-level, level)?;
        let face = original.broadcast_mul(mask.pixels())?.broadcast_add(&mouth)?;
        blend_face(frame, &face, &aligned.matrix, Blending::default())?.applied_to(frame)
    };
    let (black, white) = (with_mouth(-1.0)?, with_mouth(1.0)?);
    let independent = black.eq(&white)?.min_keepdim(2)?;
    let around = |x: &Tensor| x.broadcast_mul(&independent);
    let want = tensors["frames_rgb"].get(place)?;
    let pasted = independent.ne(&frame.eq(&want)?.min_keepdim(2)?)?;
    let pasted = pasted.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    assert!(pasted > 1000.0, "the golden frame is the input's");

    let db = psnr(&around(&black)?, &around(&want)?)?;
    let kept = independent.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    eprintln!("final frame 0 around the mouth ({:.1} % of it): {db:.1} dB", kept * 100.0);
    assert!(kept > 0.5 && kept < 1.0, "{kept} of the frame is independent of the mouth");
    assert!(db >= 45.0, "{db:.1} dB");
    Ok(())
}
