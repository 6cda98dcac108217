//! Finds face boxes with SeetaFace's cascade (crate `rustface`). Its boxes jump by 5 to 10 % from frame to
//! frame: good for finding a face, not for aligning one.
//!
//! The trained model comes from the package `rustface`. Copyright (c) 2016, Visual Information Processing
//! and Learning (VIPL) group, Institute of Computing Technology, Chinese Academy of Sciences, Beijing, China;
//! BSD-2-Clause, see [`SEETA_LICENSE`].

use rustface::{ImageData, Model};

use super::pixels::{Gray, Rgb, Window};

/// The licence of SeetaFace and its trained model, which every copy of the binary has to carry.
pub const SEETA_LICENSE: &str = include_str!(concat!(env!("OUT_DIR"), "/seeta_license.txt"));

const MODEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seeta_frontal.bin"));

/// The smallest face, in pixels of the searched picture, that the cascade knows.
const SMALLEST_FACE: f64 = 40.0;
/// Empty space on the right and at the bottom of the searched picture. The crate moves candidate boxes and then
/// copies their pixels with raw pointers; it skips boxes that have left the picture on the left or at the top,
/// but not those beyond the other two edges, whose copies would be out of bounds. On 18 581 hostile pictures no
/// box ever left this space. That is a measurement, not a proof: a move may in theory be one and a half sides
/// of the box, and space for all of them would be many times the picture.
const MARGIN: usize = 24;

/// A square that SeetaFace takes for a face, in pixels of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundBox {
    pub center: [f64; 2],
    pub side: f64,
    pub score: f64,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// Where.
    pub window: Window,
    /// Side of the smallest face to find, in pixels of the frame.
    pub smallest: f64,
    /// Side of the largest.
    pub largest: f64,
    /// Certainty from which a find counts.
    pub threshold: f64,
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

    /// All faces in a part of the frame, the most certain first.
    pub fn search(&self, image: &Rgb, search: &Search) -> Vec<FoundBox> {
        // The cascade starts at faces of 40 pixels: the picture is reduced until the smallest has that.
        let scale = SMALLEST_FACE / search.smallest;
        let pixels = |length: f64| (length * scale).round().max(1.0) as usize;
        let (width, height) = (pixels(search.window.width), pixels(search.window.height));
        if width.min(height) < SMALLEST_FACE as usize {
            return Vec::new();
        }
        let gray = with_margin(image.reduce(search.window, width, height));
        // A detector is not `Send`, its model is: a new one per search costs a fraction of a millisecond.
        let mut detector = rustface::create_detector_with_model(self.model.clone());
        detector.set_max_face_size(pixels(search.largest).max(SMALLEST_FACE as usize) as u32);
        detector.set_score_thresh(search.threshold);
        let faces = detector.detect(&ImageData::new(&gray.data, gray.width as u32, gray.height as u32));
        let (to_x, to_y) = (search.window.width / width as f64, search.window.height / height as f64);
        let mut found: Vec<FoundBox> = faces
            .iter()
            .map(|face| {
                let bbox = face.bbox();
                let half = f64::from(bbox.width()) / 2.0;
                FoundBox {
                    center: [
                        search.window.x + (f64::from(bbox.x()) + half) * to_x,
                        search.window.y + (f64::from(bbox.y()) + half) * to_y,
                    ],
                    side: 2.0 * half * to_x,
                    score: face.score(),
                }
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found
    }
}

fn with_margin(gray: Gray) -> Gray {
    let (width, height) = (gray.width + MARGIN, gray.height + MARGIN);
    let mut data = vec![0; width * height];
    for (to, from) in data.chunks_exact_mut(width).zip(gray.data.chunks_exact(gray.width)) {
        to[..gray.width].copy_from_slice(from);
    }
    Gray { data, width, height }
}
