//! The seam around the mouth: the original face with a known colour error takes the place of a generated one.

use candle_core::{DType, Device, Result, Tensor};
use latentsync::options::Feather;
use latentsync::stages::align_faces::{AlignedFace, FaceAligner};
use latentsync::stages::blend_faces::{Blending, blend_face};
use latentsync::stages::colour_match::{ColourCorrection, ColourMatcher};
use latentsync::stages::compose_face::{Compose, compose_face};
use latentsync::stages::encode_latents::face_pixels;
use models::face::Anchors;
use models::mouth_mask::MouthMask;

use super::{frames, media};

const RESOLUTION: usize = 512;
const CHUNK: usize = 16;

struct Clip {
    name: &'static str,
    frames: Vec<Tensor>,
    faces: Vec<AlignedFace>,
}

impl Clip {
    fn all() -> Vec<Self> {
        let clip = |name: &'static str| {
            let media = media();
            let frames = frames(&media.join(format!("{name}.mp4")), 2 * CHUNK);
            let text = std::fs::read_to_string(media.join(format!("{name}.landmarks3.json"))).unwrap();
            let points: Vec<[[f32; 2]; 3]> = serde_json::from_str(&text).unwrap();
            let mut aligner = FaceAligner::new(RESOLUTION);
            let align = |(frame, [left_brow, right_brow, nose]): (&Tensor, [[f32; 2]; 3])| {
                aligner.align(frame, &Anchors { left_brow, right_brow, nose }).unwrap()
            };
            let faces = frames.iter().zip(points).map(align).collect();
            Self { name, frames, faces }
        };
        ["man_4s", "woman_2s"].map(clip).into()
    }
}

/// Applies a colour error that a generator might make. Values are in [-1, 1].
fn cast(name: &str, truth: &Tensor, mask: &MouthMask) -> Result<Tensor> {
    let red = Tensor::new(&[8f32 / 127.5, 0.0, 0.0], &Device::Cpu)?;
    match name {
        "none" => Ok(truth.clone()),
        "+8 red" => truth.broadcast_add(&red),
        // Relative to black.
        "gain 0.93" => ((truth + 1.0)? * 0.93)? - 1.0,
        "gamma 1.1" => (((truth + 1.0)? / 2.0)?.powf(1.1)? * 2.0)? - 1.0,
        "all three" => cast("+8 red", &cast("gain 0.93", &cast("gamma 1.1", truth, mask)?, mask)?, mask),
        "+8 red, inside only" => truth + mask.pixels().affine(-1.0, 1.0)?.broadcast_mul(&red)?,
        other => panic!("{other}"),
    }
}

/// 1 in the band of the generated area that is within 1/64 of the side from its edge, else 0.
fn seam(mask: &MouthMask) -> Result<Tensor> {
    let generated = mask.pixels().le(0f32)?.to_dtype(DType::F32)?.squeeze(2)?;
    let inner = kernels::erode::erode(&generated, 2 * (RESOLUTION / 64) + 1)?;
    (generated - inner)?.unsqueeze(2)
}

/// Mean |composed − truth| in levels of 8 bits, where `place` is 1.
fn error(composed: &Tensor, truth: &Tensor, place: &Tensor) -> Result<f64> {
    let off = ((composed - truth)?.abs()? * 127.5)?.broadcast_mul(place)?.sum_all()?.to_scalar::<f32>()?;
    Ok(f64::from(off) / f64::from(3.0 * place.sum_all()?.to_scalar::<f32>()?))
}

#[test]
#[ignore = "a measurement, which needs the shared material"]
fn colour_match_on_known_casts() -> Result<()> {
    let mask = MouthMask::new(RESOLUTION)?;
    let matcher = ColourMatcher::new(&mask)?;
    let (seam, inside) = (seam(&mask)?, mask.pixels().affine(-1.0, 1.0)?);
    for Clip { name, faces, .. } in Clip::all() {
        for kind in ["none", "+8 red", "gain 0.93", "gamma 1.1", "all three", "+8 red, inside only"] {
            let truths = faces.iter().map(|face| face_pixels(&face.crop)).collect::<Result<Vec<_>>>()?;
            let made = truths.iter().map(|truth| cast(kind, truth, &mask)).collect::<Result<Vec<_>>>()?;
            let mut off = [[0f64; 2]; 2];
            let mut corrections = Vec::new();
            for (made, faces) in made.chunks(CHUNK).zip(faces.chunks(CHUNK)) {
                let pairs: Vec<_> = made.iter().zip(faces).map(|(made, face)| (made, &face.crop)).collect();
                corrections.extend(matcher.corrections(&pairs)?);
            }
            let frames = truths.len() as f64;
            for ((truth, made), (face, &colour)) in
                truths.iter().zip(&made).zip(faces.iter().zip(&corrections))
            {
                for (off, colour) in off.iter_mut().zip([ColourCorrection::NONE, colour]) {
                    let of = Compose { decoded: made, crop: &face.crop, mask: mask.pixels(), colour };
                    let face = compose_face(&of)?;
                    off[0] += error(&face, truth, &seam)? / frames;
                    off[1] += error(&face, truth, &inside)? / frames;
                }
            }
            // Change of the correction of a mid grey from frame to frame.
            let steps: Vec<f32> = corrections
                .windows(2)
                .map(|pair| 127.5 * (pair[1].offset[0] - pair[0].offset[0]).abs())
                .collect();
            let boundary = steps[CHUNK - 1];
            let largest = steps.iter().copied().fold(0.0, f32::max);
            println!(
                "{name}, {kind}: at the seam {:.2} -> {:.2} levels, inside {:.2} -> {:.2}; between frames at most {largest:.2}, \
                 between chunks {boundary:.2}",
                off[0][0], off[1][0], off[0][1], off[1][1]
            );
            if kind == "none" {
                assert!(off[1][1] < 0.05, "{name}: the original face changes by {:.3} levels", off[1][1]);
            } else if !kind.contains("inside") {
                assert!(off[1][0] < 0.6 * off[0][0], "{name}, {kind}");
            }
        }
    }
    Ok(())
}

/// The steepest step across the edge of the mask that the original does not have, and the cost of a soft edge if the
/// generated mouth differs: the mouth of another frame takes its place.
#[test]
#[ignore = "a measurement, which needs the shared material"]
fn soft_edges_of_the_mask() -> Result<()> {
    let mask = MouthMask::new(RESOLUTION)?;
    for Clip { name, frames, faces } in Clip::all() {
        for share in [0.0, 0.01, 0.02, 0.03, 0.05] {
            let edge = Feather::new("mask_feather", share).unwrap().pixels(RESOLUTION);
            let soft = mask.softened(edge)?;
            let (crop, other) = (&faces[0].crop, face_pixels(&faces[12].crop)?);
            let truth = face_pixels(crop)?;
            let made = [cast("all three", &truth, &mask)?, other];
            let mut line = Vec::new();
            for (made, kind) in made.iter().zip(["cast", "other"]) {
                let colour = ColourCorrection::NONE;
                let face = compose_face(&Compose { decoded: made, crop, mask: &soft, colour })?;
                // Height of the step between two rows, on the edge under the nose and across both cheeks.
                let off = ((&face - &truth)? * 127.5)?;
                let step = (off.narrow(0, 1, RESOLUTION - 1)? - off.narrow(0, 0, RESOLUTION - 1)?)?.abs()?;
                let steps = step.narrow(1, 64, 384)?.mean(2)?.mean(1)?.to_vec1::<f32>()?;
                line.push(steps[180..330].iter().copied().fold(0.0, f32::max));
                if let Some(directory) = std::env::var_os("SEAM_PICTURES") {
                    for outer in [0.0, 0.05, 0.15] {
                        let how = Blending {
                            feather: Feather::new("feather", outer).unwrap(),
                            ..Blending::default()
                        };
                        let patch = blend_face(&frames[0], &face, &faces[0].matrix, how)?;
                        let path = std::path::Path::new(&directory);
                        save(
                            &path.join(format!("{name}_{kind}_mask{share}_outer{outer}.png")),
                            &patch.applied_to(&frames[0])?,
                        )?;
                    }
                }
            }
            let shown = soft.affine(-1.0, 1.0)?.mean_all()?.to_scalar::<f32>()?
                / mask.pixels().affine(-1.0, 1.0)?.mean_all()?.to_scalar::<f32>()?;
            println!(
                "{name}, mask feather {share} ({edge} px): steepest step {:.2} levels a row with the cast, {:.2} with another \
                 frame's mouth; {:.0} % of the generated area shows",
                line[0],
                line[1],
                100.0 * shown
            );
        }
    }
    Ok(())
}

/// Writes pictures of a colour cast with and without the colour match.
#[test]
#[ignore = "writes pictures for inspection to the directory SEAM_PICTURES; needs the shared material"]
fn pictures_of_the_colour_match() -> Result<()> {
    let directory = std::env::var_os("SEAM_PICTURES").expect("the directory SEAM_PICTURES");
    let mask = MouthMask::new(RESOLUTION)?;
    let matcher = ColourMatcher::new(&mask)?;
    for Clip { name, frames, faces } in Clip::all() {
        let made = cast("all three", &face_pixels(&faces[0].crop)?, &mask)?;
        let found = matcher.corrections(&[(&made, &faces[0].crop)])?[0];
        for (kind, colour) in [("off", ColourCorrection::NONE), ("on", found)] {
            let of = Compose { decoded: &made, crop: &faces[0].crop, mask: mask.pixels(), colour };
            let patch = blend_face(&frames[0], &compose_face(&of)?, &faces[0].matrix, Blending::default())?;
            let path = std::path::Path::new(&directory).join(format!("{name}_match_{kind}.png"));
            save(&path, &patch.applied_to(&frames[0])?)?;
        }
    }
    Ok(())
}

fn save(path: &std::path::Path, rgb: &Tensor) -> Result<()> {
    let (height, width, _) = rgb.dims3()?;
    let bytes = rgb.flatten_all()?.to_vec1::<u8>()?;
    image::save_buffer(path, &bytes, width as u32, height as u32, image::ColorType::Rgb8)
        .map_err(candle_core::Error::wrap)
}
