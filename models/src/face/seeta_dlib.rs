//! The detector that needs no licence and no download of its own: SeetaFace finds a face, dlib's 68-point
//! shape predictor places the landmarks, and from then on the landmarks themselves say where to look in the
//! next frame. SeetaFace is asked again now and then, on a small window, whether a face is still there.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::face_frame::{FaceFrame, Similarity};
use super::pixels::{Window, with_rgb};
use super::seeta_boxes::{FoundBox, Search, SeetaBoxes};
use super::{Anchors, Face, FaceDetector, FaceModelError, Rgb, ShapePredictor};

/// Points of the 68-point scheme: 0–16 jaw, 17–26 eyebrows, 27–35 nose, 36–47 eyes, 48–67 mouth.
const LANDMARKS: usize = 68;

/// SeetaFace sums its scores over neighbouring windows: faces reached 10 to 40, clutter 2.
const FIND_SCORE: f64 = 3.5;
/// A face known to be there a few frames ago needs less to be believed.
const KEEP_SCORE: f64 = 0.9;
/// A first look finds faces of this part of the picture's longer side …
const COARSE_FACE: f64 = 1.0 / 12.0;
/// … and a second, slower one those of this part.
const FINE_FACE: f64 = 1.0 / 30.0;
/// Smaller faces, in pixels, are never looked for: there is nothing to gain from 50 pixels of face.
const SMALLEST_FACE: f64 = 40.0;
/// While nothing is found, the slow look is taken in every so many frames.
const FINE_PERIOD: usize = 10;
/// A followed face is confirmed by SeetaFace in every so many frames.
const CONFIRM_PERIOD: usize = 5;

/// dlib's unit square relative to SeetaFace's: its middle, in sides, and its side (mean over 21 frames of three
/// videos; the middles scatter by 5 %).
const DLIB_IN_SEETA: ([f64; 2], f64) = ([0.0, 0.04], 0.955);
/// Up to this roll, in radians, dlib's trees know faces from upright boxes; beyond, the box tilts.
const UPRIGHT_ROLL: f64 = 0.26;
/// Sizes of the boxes, relative to the fitted one, whose results are averaged.
const BOX_SCALES: [f64; 2] = [0.94, 1.06];
/// Largest residual of the mean shape on a face, in sides of the box: a strong expression in half profile
/// reaches 0.10.
const LARGEST_RESIDUAL: f64 = 0.16;

/// SeetaFace boxes refined by dlib landmarks. Clones share the predictor, which is large.
#[derive(Clone)]
pub struct SeetaDlib {
    boxes: SeetaBoxes,
    predictor: Arc<ShapePredictor>,
    /// x, y, x, y … of the predictor's mean shape.
    mean_shape: Vec<f32>,
    /// Calls of `detect` in a row that found nothing.
    misses: usize,
}

/// What a followed face remembers of the frames before.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    /// Frames since SeetaFace last saw the face.
    unconfirmed: usize,
    /// Intensities on a grid over the face.
    appearance: Vec<u8>,
}

/// Points per side of the grid that an appearance is sampled on.
const APPEARANCE_GRID: usize = 24;
/// From this correlation with the last confirmed appearance on, it is beyond doubt the same face …
const SAME_FACE: f64 = 0.9;
/// … and below this one it may be anything: the scene may have changed, SeetaFace is asked at once.
const CHANGED_FACE: f64 = 0.6;

impl SeetaDlib {
    /// `model` is dlib's `shape_predictor_68_face_landmarks.dat`.
    pub fn open(model: &Path) -> std::result::Result<Self, FaceModelError> {
        let predictor = ShapePredictor::open(model)?;
        if predictor.landmarks() != LANDMARKS {
            return Err(FaceModelError::Unexpected {
                path: model.to_path_buf(),
                what: format!("it finds {} points instead of {LANDMARKS}", predictor.landmarks()),
            });
        }
        let boxes = SeetaBoxes::built_in()
            .map_err(|source| FaceModelError::Read { path: "the built-in SeetaFace model".into(), source })?;
        let mean_shape = predictor.mean_shape().to_vec();
        Ok(Self { mean_shape, boxes, predictor: Arc::new(predictor), misses: 0 })
    }

    /// SeetaFace's boxes in the whole picture; small faces are looked for only where there are no large
    /// ones, and while nothing is found only now and then.
    fn search_everywhere(&self, image: &Rgb) -> Vec<FoundBox> {
        let found = self.look(image, COARSE_FACE);
        match found.is_empty() && self.misses.is_multiple_of(FINE_PERIOD) {
            true => self.look(image, FINE_FACE),
            false => found,
        }
    }

    /// SeetaFace's boxes from this part of the picture's longer side on. The searched picture has a size that
    /// depends on `smallest` alone: large frames take hardly longer than small ones.
    fn look(&self, image: &Rgb, smallest: f64) -> Vec<FoundBox> {
        let (width, height) = (image.width as f64, image.height as f64);
        self.boxes.search(
            image,
            &Search {
                window: Window { x: 0.0, y: 0.0, width, height },
                smallest: (width.max(height) * smallest).max(SMALLEST_FACE),
                largest: width.min(height),
                threshold: FIND_SCORE,
            },
        )
    }

    /// SeetaFace's boxes of about the size of `lost` around where it was. A small face is not found by the quick
    /// look at the whole picture, and the slow one is not taken often.
    fn search_near(&self, image: &Rgb, lost: &Face) -> Vec<FoundBox> {
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
                smallest: (0.7 * side).max(SMALLEST_FACE),
                largest: 1.5 * side,
                threshold: FIND_SCORE,
            },
        )
    }

    fn refine_all(&self, image: &Rgb, found: &[FoundBox]) -> Vec<Face> {
        found.iter().filter_map(|found| self.refine(image, found)).collect()
    }

    /// Whether SeetaFace sees a face at `place`.
    fn confirm(&self, image: &Rgb, place: &FaceFrame) -> Option<FoundBox> {
        let side = place.side() / DLIB_IN_SEETA.1;
        let center = place.center();
        let found = self.boxes.search(
            image,
            &Search {
                window: Window {
                    x: center[0] - side,
                    y: center[1] - side,
                    width: 2.0 * side,
                    height: 2.0 * side,
                },
                smallest: 0.7 * side,
                largest: 1.4 * side,
                threshold: KEEP_SCORE,
            },
        );
        found.into_iter().find(|face| distance(face.center, center) < 0.4 * side)
    }

    /// Where `landmarks` say that the face is.
    fn fit(&self, landmarks: &[[f32; 2]]) -> Similarity {
        Similarity::between(&self.mean_shape, landmarks.as_flattened())
    }

    /// The landmarks of the face at about `place`, and their fit. The first result only centres the box;
    /// the mean over boxes of two sizes, each also seen in a mirror, is steadier than any one of them.
    fn locate(&self, image: &Rgb, place: &FaceFrame) -> (Vec<[f32; 2]>, Similarity) {
        let first = self.predictor.predict(image, place);
        let place = upright(&self.fit(&first));
        let views = BOX_SCALES.map(|scale| place.scaled(scale)).map(|view| [(view, false), (view, true)]);
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

    /// The face that SeetaFace found, if the landmarks agree that it is one.
    fn refine(&self, image: &Rgb, found: &FoundBox) -> Option<Face> {
        let (shift, scale) = DLIB_IN_SEETA;
        let center = [found.center[0] + shift[0] * found.side, found.center[1] + shift[1] * found.side];
        // SeetaFace's box is rough: a first round brings the box to where the landmarks want it.
        let guess = FaceFrame::square(center, scale * found.side, 0.0);
        let first = self.predictor.predict(image, &guess);
        let (landmarks, fit) = self.locate(image, &upright(&self.fit(&first)));
        let place = upright(&fit);
        let agrees = fit.residual < LARGEST_RESIDUAL
            && distance(place.center(), guess.center()) < 0.5 * guess.side()
            && (0.5..2.0).contains(&(place.side() / guess.side()));
        agrees.then(|| Face {
            bbox: bounds(&place),
            score: found.score as f32,
            anchors: anchors(&landmarks),
            track: Track { unconfirmed: 0, appearance: appearance(image, &place) },
            landmarks,
        })
    }

    fn follow_in(&self, image: &Rgb, previous: &Face) -> Option<Face> {
        let before = upright(&self.fit(&previous.landmarks));
        let (landmarks, fit) = self.locate(image, &before);
        let place = upright(&fit);
        let [x, y] = place.center();
        let plausible = fit.residual < LARGEST_RESIDUAL
            && distance(place.center(), before.center()) < 0.5 * before.side()
            && (0.7..1.4).contains(&(place.side() / before.side()))
            && (0.0..image.width as f64).contains(&x)
            && (0.0..image.height as f64).contains(&y);
        if !plausible {
            return None;
        }
        let look = appearance(image, &place);
        let likeness = correlation(&look, &previous.track.appearance);
        let mut face = Face {
            bbox: bounds(&place),
            score: previous.score,
            anchors: anchors(&landmarks),
            landmarks,
            track: Track {
                unconfirmed: previous.track.unconfirmed + 1,
                appearance: previous.track.appearance.clone(),
            },
        };
        if likeness < CHANGED_FACE || face.track.unconfirmed >= CONFIRM_PERIOD {
            match self.confirm(image, &place) {
                Some(found) => {
                    face.score = found.score as f32;
                    face.track.appearance = look;
                }
                // SeetaFace knows frontal faces; a turned head that looks as before is still there.
                None if likeness >= SAME_FACE => {}
                None => return None,
            }
            face.track.unconfirmed = 0;
        }
        Some(face)
    }
}

impl FaceDetector for SeetaDlib {
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        let faces: Vec<Face> = with_rgb(frame, |image| {
            let found = self.search_everywhere(&image);
            Ok(self.refine_all(&image, &found))
        })?;
        self.misses = if faces.is_empty() { self.misses + 1 } else { 0 };
        Ok(faces)
    }

    fn detect_all(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        with_rgb(frame, |image| Ok(self.refine_all(&image, &self.look(&image, FINE_FACE))))
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

/// The unit square of a fit, upright unless the head is tilted further than the trees know.
fn upright(fit: &Similarity) -> FaceFrame {
    let angle = fit.angle();
    let tilt = angle - angle.clamp(-UPRIGHT_ROLL, UPRIGHT_ROLL);
    FaceFrame::square(fit.apply([0.5, 0.5]), fit.scale(), tilt)
}

fn bounds(place: &FaceFrame) -> [f32; 4] {
    let ([x, y], half) = (place.center(), place.side() / 2.0);
    [x - half, y - half, x + half, y + half].map(|v| v as f32)
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn appearance(image: &Rgb, place: &FaceFrame) -> Vec<u8> {
    let step = |i: usize| (i as f64 + 0.5) / APPEARANCE_GRID as f64;
    (0..APPEARANCE_GRID * APPEARANCE_GRID)
        .map(|i| {
            let [x, y] = place.apply([step(i % APPEARANCE_GRID), step(i / APPEARANCE_GRID)]);
            image.intensity(x.round() as i64, y.round() as i64)
        })
        .collect()
}

/// Pearson's coefficient; 0 where one of the two has no contrast.
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

/// Which point of the mirrored face each point is.
const MIRRORED: [usize; LANDMARKS] = [
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, // jaw
    26, 25, 24, 23, 22, 21, 20, 19, 18, 17, // eyebrows
    27, 28, 29, 30, 35, 34, 33, 32, 31, // nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, // eyes
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, // lips, outer edge
    64, 63, 62, 61, 60, 67, 66, 65, // lips, inner edge
];

/// The points whose mean each anchor starts from. The eyebrows' ends (17, 21, 22, 26) and the tip of the nose
/// (30) are left out: with them an arched brow or a turned head moves the mean against the reference's, and
/// one constant no longer serves two people (2.7 % of the eyebrow distance instead of 1.8 %).
const LEFT_BROW: Range<usize> = 18..21;
const RIGHT_BROW: Range<usize> = 23..26;
const NOSE: Range<usize> = 31..36;

/// How far those means lie from where InsightFace's 106 points put the anchors: along the brow line and
/// downwards, in eyebrow distances. Mean of what two videos with given anchors show, a woman's and a man's;
/// found on one and checked on the other, 1.8 % of the eyebrow distance remain.
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
    // The brow line is the first axis of the face's own frame, its length the unit.
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
