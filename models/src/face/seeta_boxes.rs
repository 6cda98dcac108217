//! Face boxes from SeetaFace's cascade (crate `rustface`). The boxes jump by 5 to 10 % from frame to frame,
//! so they serve for detection but not for alignment.
//!
//! The trained model is part of the package `rustface`. Copyright (c) 2016, Visual Information Processing
//! and Learning (VIPL) group, Institute of Computing Technology, Chinese Academy of Sciences, Beijing, China;
//! BSD-2-Clause, see [`SEETA_LICENSE`].

use rustface::{ImageData, Model};

use super::pixels::{Gray, Rgb, Window};

/// The licence of SeetaFace and its trained model, which must accompany every copy of the binary.
pub const SEETA_LICENSE: &str = include_str!(concat!(env!("OUT_DIR"), "/seeta_license.txt"));

const MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seeta_frontal.bin"));

/// Smallest face that the cascade detects, in pixels of the searched picture.
const MIN_FACE: f64 = 40.0;
/// Padding at the right and bottom of the searched picture. The crate moves candidate boxes and then copies
/// their pixels through raw pointers. It skips boxes beyond the left and top edges, but not beyond the right
/// and bottom edges, where the copy would be out of bounds. On 18 581 adversarial pictures no box left this
/// padding. This is a measurement, not a proof: a box may in theory move by 1.5 times its side, and padding
/// for that would be many times the picture.
const PADDING: usize = 24;

/// A square that SeetaFace detects as a face, in pixels of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeetaBox {
    pub center: [f64; 2],
    pub side: f64,
    pub score: f64,
}

/// Parameters of a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Part of the frame.
    pub window: Window,
    /// Side length of the smallest face, in pixels of the frame.
    pub min_side: f64,
    /// Side length of the largest face.
    pub max_side: f64,
    /// Minimum score.
    pub min_score: f64,
}

#[derive(Clone)]
pub(super) struct SeetaBoxes {
    model: Model,
}

impl SeetaBoxes {
    /// The built-in model.
    pub fn built_in() -> std::io::Result<Self> {
        Ok(Self { model: rustface::read_model(MODEL)? })
    }

    /// All faces in a part of the frame, by descending score.
    pub fn search(&self, image: &Rgb, search: &Search) -> Vec<SeetaBox> {
        // The window is scaled so that the smallest face has the 40 pixels that the cascade needs.
        let scale = MIN_FACE / search.min_side;
        let pixels = |length: f64| (length * scale).round().max(1.0) as usize;
        let (width, height) = (pixels(search.window.width), pixels(search.window.height));
        if width.min(height) < MIN_FACE as usize {
            return Vec::new();
        }
        let gray = with_padding(image.reduce(search.window, width, height));
        // The detector is not `Send`, but its model is. A new detector per search takes a fraction of a
        // millisecond.
        let mut detector = rustface::create_detector_with_model(self.model.clone());
        detector.set_max_face_size(pixels(search.max_side).max(MIN_FACE as usize) as u32);
        detector.set_score_thresh(search.min_score);
        let faces = detector.detect(&ImageData::new(&gray.data, gray.width as u32, gray.height as u32));
        let (to_x, to_y) = (search.window.width / width as f64, search.window.height / height as f64);
        let mut boxes: Vec<SeetaBox> = faces
            .iter()
            .map(|face| {
                let bbox = face.bbox();
                let half = f64::from(bbox.width()) / 2.0;
                SeetaBox {
                    center: [
                        search.window.x + (f64::from(bbox.x()) + half) * to_x,
                        search.window.y + (f64::from(bbox.y()) + half) * to_y,
                    ],
                    side: 2.0 * half * to_x,
                    score: face.score(),
                }
            })
            .collect();
        boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
        boxes
    }
}

fn with_padding(gray: Gray) -> Gray {
    let (width, height) = (gray.width + PADDING, gray.height + PADDING);
    let mut data = vec![0; width * height];
    for (to, from) in data.chunks_exact_mut(width).zip(gray.data.chunks_exact(gray.width)) {
        to[..gray.width].copy_from_slice(from);
    }
    Gray { data, width, height }
}
