//! The default detector, which needs neither a restricted licence nor a download: SeetaFace detects a face,
//! dlib's 68-point shape predictor places the landmarks, and the landmarks of one frame locate the face in
//! the next. SeetaFace periodically confirms the face in a small window.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::detector::FaceDetector;
use super::dlib_shape_predictor::ShapePredictor;
use super::error::FaceModelError;
use super::face_frame::{FaceFrame, Similarity};
use super::pixels::{Rgb, Window, with_rgb};
use super::seeta_boxes::{Search, SeetaBox, SeetaBoxes};
use super::types::{Anchors, Face, TrackState};

/// Points of the 68-point scheme: 0–16 jaw, 17–26 eyebrows, 27–35 nose, 36–47 eyes, 48–67 mouth.
const LANDMARKS: usize = 68;

/// Minimum SeetaFace score of a new face. SeetaFace sums scores over neighbouring windows: faces reached 10
/// to 40, false detections 2.
const DETECT_SCORE: f64 = 3.5;
/// Minimum score that confirms a face seen a few frames ago.
const CONFIRM_SCORE: f64 = 0.9;
/// Smallest face of the fast search, relative to the picture's longer side.
const COARSE_FACE: f64 = 1.0 / 12.0;
/// Smallest face of the slow search.
const FINE_FACE: f64 = 1.0 / 30.0;
/// Smallest face of any search in pixels: lip-sync does not improve faces below 50 pixels.
const MIN_FACE: f64 = 40.0;
/// Frames between slow searches while the fast search finds nothing.
const FINE_PERIOD: usize = 10;
/// Frames between confirmations of a followed face by SeetaFace.
const CONFIRM_PERIOD: usize = 5;

/// dlib's unit square relative to SeetaFace's box: offset of the centre and side length, in side lengths of
/// the box (mean over 21 frames of three videos; the centres scatter by 5 %).
const DLIB_IN_SEETA: ([f64; 2], f64) = ([0.0, 0.04], 0.955);
/// Maximum roll in radians for which dlib's trees were trained on upright boxes; beyond it the box is
/// rotated.
const MAX_UPRIGHT_ROLL: f64 = 0.26;
/// Scales of the boxes, relative to the fitted one, whose results are averaged.
const BOX_SCALES: [f64; 2] = [0.94, 1.06];
/// Maximum residual of the mean shape fitted to a face, in side lengths of the box. A strong expression in
/// half profile reaches 0.10.
const MAX_RESIDUAL: f64 = 0.16;

/// SeetaFace detection with dlib landmarks. Clones share the predictor, which is large.
#[derive(Clone)]
pub struct SeetaDlib {
    boxes: SeetaBoxes,
    predictor: Arc<ShapePredictor>,
    /// Mean shape of the predictor: x, y, x, y, …
    mean_shape: Vec<f32>,
    /// Consecutive calls of `detect` without a face.
    misses: usize,
}

/// Points per side of the grid on which a face's template is sampled.
const TEMPLATE_GRID: usize = 24;
/// Minimum correlation with the confirmed template for a face that SeetaFace does not confirm.
const SAME_FACE_CORRELATION: f64 = 0.9;
/// Correlation below which the scene may have changed and SeetaFace must confirm the face at once.
const CHANGED_FACE_CORRELATION: f64 = 0.6;

impl SeetaDlib {
    /// `model` is dlib's `shape_predictor_68_face_landmarks.dat`.
    pub fn open(model: &Path) -> std::result::Result<Self, FaceModelError> {
        let predictor = ShapePredictor::open(model)?;
        if predictor.landmarks() != LANDMARKS {
            return Err(FaceModelError::Unexpected {
                path: model.to_path_buf(),
                what: format!("it has {} landmarks, expected {LANDMARKS}", predictor.landmarks()),
            });
        }
        let boxes = SeetaBoxes::built_in()
            .map_err(|source| FaceModelError::Read { path: "the built-in SeetaFace model".into(), source })?;
        let mean_shape = predictor.mean_shape().to_vec();
        Ok(Self { mean_shape, boxes, predictor: Arc::new(predictor), misses: 0 })
    }

    /// SeetaFace's boxes in the whole picture. Small faces are searched for only if there is no large one,
    /// and then only every [`FINE_PERIOD`] frames.
    fn search_everywhere(&self, image: &Rgb) -> Vec<SeetaBox> {
        let boxes = self.search(image, COARSE_FACE);
        match boxes.is_empty() && self.misses.is_multiple_of(FINE_PERIOD) {
            true => self.search(image, FINE_FACE),
            false => boxes,
        }
    }

    /// SeetaFace's boxes of at least `min_part` of the picture's longer side. The size of the searched
    /// picture depends only on `min_part`, so large frames take hardly longer than small ones.
    fn search(&self, image: &Rgb, min_part: f64) -> Vec<SeetaBox> {
        let (width, height) = (image.width as f64, image.height as f64);
        self.boxes.search(
            image,
            &Search {
                window: Window { x: 0.0, y: 0.0, width, height },
                min_side: (width.max(height) * min_part).max(MIN_FACE),
                max_side: width.min(height),
                min_score: DETECT_SCORE,
            },
        )
    }

    /// SeetaFace's boxes of about the size of `lost`, around its last position. The fast search of the whole
    /// picture misses small faces, and the slow search is rare.
    fn search_near(&self, image: &Rgb, lost: &Face) -> Vec<SeetaBox> {
        let [center_x, center_y] = lost.center().map(f64::from);
        let side = f64::from(lost.area()).sqrt() / DLIB_IN_SEETA.1;
        self.boxes.search(
            image,
            &Search {
                window: Window {
                    x: center_x - 2.0 * side,
                    y: center_y - 2.0 * side,
                    width: 4.0 * side,
                    height: 4.0 * side,
                },
                min_side: (0.7 * side).max(MIN_FACE),
                max_side: 1.5 * side,
                min_score: DETECT_SCORE,
            },
        )
    }

    fn refine_all(&self, image: &Rgb, boxes: &[SeetaBox]) -> Vec<Face> {
        boxes.iter().filter_map(|found| self.refine(image, found)).collect()
    }

    /// SeetaFace's box at the position of `frame`, if it detects a face there.
    fn confirm(&self, image: &Rgb, frame: &FaceFrame) -> Option<SeetaBox> {
        let side = frame.side() / DLIB_IN_SEETA.1;
        let center = frame.center();
        let boxes = self.boxes.search(
            image,
            &Search {
                window: Window {
                    x: center[0] - side,
                    y: center[1] - side,
                    width: 2.0 * side,
                    height: 2.0 * side,
                },
                min_side: 0.7 * side,
                max_side: 1.4 * side,
                min_score: CONFIRM_SCORE,
            },
        );
        boxes.into_iter().find(|face| distance(face.center, center) < 0.4 * side)
    }

    /// Similarity transform from the mean shape to `landmarks`.
    fn fit(&self, landmarks: &[[f32; 2]]) -> Similarity {
        Similarity::between(&self.mean_shape, landmarks.as_flattened())
    }

    /// Landmarks of the face near `frame`, and their fit. A first prediction only centres the box. The result
    /// is the mean over boxes of two sizes, each also mirrored, which is steadier than any single prediction.
    fn locate(&self, image: &Rgb, frame: &FaceFrame) -> (Vec<[f32; 2]>, Similarity) {
        let first = self.predictor.predict(image, frame);
        let frame = upright(&self.fit(&first));
        let views = BOX_SCALES.map(|scale| frame.scaled(scale)).map(|view| [(view, false), (view, true)]);
        let results: Vec<Vec<[f32; 2]>> = views
            .as_flattened()
            .par_iter()
            .map(|&(view, mirror)| {
                if !mirror {
                    return self.predictor.predict(image, &view);
                }
                let reflection = self.predictor.predict(image, &view.mirrored());
                MIRRORED.iter().map(|&i| reflection[i]).collect()
            })
            .collect();
        let weight = 1.0 / results.len() as f32;
        let mut mean = vec![[0.0; 2]; LANDMARKS];
        for landmarks in results {
            for (mean, point) in mean.iter_mut().zip(landmarks) {
                mean[0] += weight * point[0];
                mean[1] += weight * point[1];
            }
        }
        let fit = self.fit(&mean);
        (mean, fit)
    }

    /// The face in a SeetaFace box, if the fitted landmarks are plausible and agree with the box.
    fn refine(&self, image: &Rgb, found: &SeetaBox) -> Option<Face> {
        let (shift, scale) = DLIB_IN_SEETA;
        let center = [found.center[0] + shift[0] * found.side, found.center[1] + shift[1] * found.side];
        // SeetaFace's box is imprecise: a first prediction moves the box to the landmarks.
        let guess = FaceFrame::square(center, scale * found.side, 0.0);
        let first = self.predictor.predict(image, &guess);
        let (landmarks, fit) = self.locate(image, &upright(&self.fit(&first)));
        let frame = upright(&fit);
        let agrees = fit.residual < MAX_RESIDUAL
            && distance(frame.center(), guess.center()) < 0.5 * guess.side()
            && (0.5..2.0).contains(&(frame.side() / guess.side()));
        agrees.then(|| Face {
            bbox: bounds(&frame),
            score: found.score as f32,
            anchors: anchors(&landmarks),
            track: TrackState { frames_since_confirmed: 0, template: template(image, &frame) },
            landmarks,
        })
    }

    fn follow_in(&self, image: &Rgb, previous: &Face) -> Option<Face> {
        let before = upright(&self.fit(&previous.landmarks));
        let (landmarks, fit) = self.locate(image, &before);
        let frame = upright(&fit);
        let [x, y] = frame.center();
        let plausible = fit.residual < MAX_RESIDUAL
            && distance(frame.center(), before.center()) < 0.5 * before.side()
            && (0.7..1.4).contains(&(frame.side() / before.side()))
            && (0.0..image.width as f64).contains(&x)
            && (0.0..image.height as f64).contains(&y);
        if !plausible {
            return None;
        }
        let current = template(image, &frame);
        let similarity = correlation(&current, &previous.track.template);
        let mut face = Face {
            bbox: bounds(&frame),
            score: previous.score,
            anchors: anchors(&landmarks),
            landmarks,
            track: TrackState {
                frames_since_confirmed: previous.track.frames_since_confirmed + 1,
                template: previous.track.template.clone(),
            },
        };
        if similarity < CHANGED_FACE_CORRELATION || face.track.frames_since_confirmed >= CONFIRM_PERIOD {
            match self.confirm(image, &frame) {
                Some(found) => {
                    face.score = found.score as f32;
                    face.track.template = current;
                }
                // SeetaFace detects frontal faces only; a turned head with an unchanged template is still the
                // same face.
                None if similarity >= SAME_FACE_CORRELATION => {}
                None => return None,
            }
            face.track.frames_since_confirmed = 0;
        }
        Some(face)
    }
}

impl FaceDetector for SeetaDlib {
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        let faces: Vec<Face> = with_rgb(frame, |image| {
            let boxes = self.search_everywhere(&image);
            Ok(self.refine_all(&image, &boxes))
        })?;
        self.misses = if faces.is_empty() { self.misses + 1 } else { 0 };
        Ok(faces)
    }

    fn detect_all(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        with_rgb(frame, |image| Ok(self.refine_all(&image, &self.search(&image, FINE_FACE))))
    }

    fn detect_near(&mut self, frame: &Tensor, lost: &Face) -> Result<Vec<Face>> {
        with_rgb(frame, |image| Ok(self.refine_all(&image, &self.search_near(&image, lost))))
    }

    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>> {
        if previous.landmarks.len() != LANDMARKS {
            return Ok(None);
        }
        with_rgb(frame, |image| Ok(self.follow_in(&image, previous)))
    }

    fn reset(&mut self) {
        self.misses = 0;
    }
}

/// The unit square placed by a fit, upright unless the roll exceeds [`MAX_UPRIGHT_ROLL`].
fn upright(fit: &Similarity) -> FaceFrame {
    let angle = fit.angle();
    let tilt = angle - angle.clamp(-MAX_UPRIGHT_ROLL, MAX_UPRIGHT_ROLL);
    FaceFrame::square(fit.apply([0.5, 0.5]), fit.scale(), tilt)
}

/// Axis-aligned box around the centre, with the side length of `frame`.
fn bounds(frame: &FaceFrame) -> [f32; 4] {
    let ([x, y], half) = (frame.center(), frame.side() / 2.0);
    [x - half, y - half, x + half, y + half].map(|v| v as f32)
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Intensities on a grid over the face.
fn template(image: &Rgb, frame: &FaceFrame) -> Vec<u8> {
    let step = |i: usize| (i as f64 + 0.5) / TEMPLATE_GRID as f64;
    (0..TEMPLATE_GRID * TEMPLATE_GRID)
        .map(|i| {
            let [x, y] = frame.apply([step(i % TEMPLATE_GRID), step(i / TEMPLATE_GRID)]);
            image.intensity(x.round() as i64, y.round() as i64)
        })
        .collect()
}

/// Pearson's correlation coefficient; 0 if either template is constant.
fn correlation(a: &[u8], b: &[u8]) -> f64 {
    let count = a.len() as f64;
    let mean = |v: &[u8]| v.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let (a_mean, b_mean) = (mean(a), mean(b));
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - a_mean, f64::from(b) - b_mean);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// Index in the mirrored face of each landmark.
const MIRRORED: [usize; LANDMARKS] = [
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, // jaw
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17, // eyebrows
    27, 28, 29, 30, 35, 34, 33, 32, 31, // nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, // eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, // lips, outer edge
    64, 63, 62, 61, 60, 67, 66, 65, // lips, inner edge
];

/// Landmarks whose mean approximates each anchor. The ends of the eyebrows (17, 21, 22, 26) and the tip of
/// the nose (30) are excluded: with them, an arched brow or a turned head moves the mean relative to the
/// original's anchor, and the offsets below fit two people worse (error of 2.7 % of the brow distance instead
/// of 1.8 %).
const LEFT_BROW: Range<usize> = 18..21;
const RIGHT_BROW: Range<usize> = 23..26;
const NOSE: Range<usize> = 31..36;

/// Offsets of these means from the anchors by InsightFace's 106 points: along the brow line and downwards, in
/// brow distances. Mean over two videos with known anchors, of a woman and a man. Fitted on one and applied
/// to the other, the error is 1.8 % of the brow distance.
const LEFT_BROW_OFFSET: [f32; 2] = [0.0014, -0.0315];
const RIGHT_BROW_OFFSET: [f32; 2] = [-0.0113, -0.0334];
const NOSE_OFFSET: [f32; 2] = [-0.0188, 0.0548];

fn anchors(landmarks: &[[f32; 2]]) -> Anchors {
    let mean = |range: Range<usize>| {
        let count = range.len() as f32;
        let sum = landmarks[range].iter().fold([0.0; 2], |s, p| [s[0] + p[0], s[1] + p[1]]);
        sum.map(|v| v / count)
    };
    let means = Anchors { left_brow: mean(LEFT_BROW), right_brow: mean(RIGHT_BROW), nose: mean(NOSE) };
    // In face coordinates the brow line is the first axis and its length the unit.
    let [x, y] = means.brow_line();
    let corrected = |point: [f32; 2], [along, down]: [f32; 2]| {
        [point[0] - (along * x - down * y), point[1] - (along * y + down * x)]
    };
    Anchors {
        left_brow: corrected(means.left_brow, LEFT_BROW_OFFSET),
        right_brow: corrected(means.right_brow, RIGHT_BROW_OFFSET),
        nose: corrected(means.nose, NOSE_OFFSET),
    }
}
